import { mkdtempDisposable, readdir, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Journal, type SourceEntry } from './journal.ts';

const frozen: SourceEntry = {
  role: 'source',
  state: 'frozen',
  operation: '01',
  peer: 'b',
  containers: ['c'],
  sandbox: 's',
};

describe('Journal', () => {
  it('gives back after a restart what was written last, and nothing after a removal', async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), 'journal-'));
    const journal = await Journal.open(folder.path);
    await journal.write(frozen);
    await journal.write({ ...frozen, state: 'committed' });
    const again = await Journal.open(folder.path);
    expect(await again.load()).toEqual([{ ...frozen, state: 'committed' }]);
    expect(again.stateOf('source', '01')).toBe('committed');
    await again.remove({ ...frozen, state: 'committed' });
    expect(await (await Journal.open(folder.path)).load()).toEqual([]);
  });

  it('refuses an illegal step and keeps the old state', async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), 'journal-'));
    const journal = await Journal.open(folder.path);
    await expect(journal.write({ ...frozen, state: 'committed' })).rejects.toThrow('from "" to "committed"');
    await journal.write({ ...frozen });
    await journal.write({ ...frozen, state: 'committed' });
    await expect(journal.write(frozen)).rejects.toThrow('from "committed" to "frozen"');
    expect(journal.stateOf('source', '01')).toBe('committed');
  });

  it('tells what is on disk while other entries come and go', async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), 'journal-'));
    const journal = await Journal.open(folder.path);
    await journal.write(frozen);
    const writing = journal.write({ ...frozen, state: 'committed' });
    expect(journal.find('source', '01')?.state).toBe('frozen');
    await writing;
    expect(journal.find('source', '01')?.state).toBe('committed');
    expect(journal.find('target', '01')).toBeUndefined();
    await journal.remove({ ...frozen, state: 'committed' });
    expect(journal.find('source', '01')).toBeUndefined();
  });

  it('keeps entries to root alone and leaves no temporary file', async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), 'journal-'));
    await (await Journal.open(folder.path)).write(frozen);
    const migrations = join(folder.path, 'migrations');
    expect(await readdir(migrations)).toEqual(['01.source.json']);
    expect((await stat(join(migrations, '01.source.json'))).mode & 0o777).toBe(0o600);
  });

  it('forgets at the start what an agent was still writing when it died', async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), 'journal-'));
    await (await Journal.open(folder.path)).write(frozen);
    const migrations = join(folder.path, 'migrations');
    await writeFile(join(migrations, '01.source.json.new'), '{"version": 1, "state": "comm');
    expect(await (await Journal.open(folder.path)).load()).toEqual([frozen]);
    expect(await readdir(migrations)).toEqual(['01.source.json']);
  });

  it('refuses an entry of a version it does not know', async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), 'journal-'));
    const journal = await Journal.open(folder.path);
    await writeFile(join(folder.path, 'migrations', 'x.source.json'), JSON.stringify({ version: 99, ...frozen }));
    await expect(journal.load()).rejects.toThrow('version 99');
  });
});
