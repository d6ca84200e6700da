import { mkdir, mkdtemp, readdir, readFile, rm, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { layer, writeArchive, writeFolder } from './checkpoint.fixture.ts';
import { carryOut, type Limits, planOf } from './prune.ts';
import { type SurveyOptions, survey } from './survey.ts';
import { parseBytes, parseDuration } from './units.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-prune-'));
});
afterEach(() => rm(folder, { recursive: true }));

const NOW = Date.parse('2026-11-24T00:00:00Z');
const DAY = 86_400_000;
const at = (name: string) => join(folder, name);
const madeOn = (day: number) => ({ created: new Date(Date.UTC(2026, 10, day)).toISOString() });
const touch = (name: string, day: number) => utimes(at(name), day, Date.UTC(2026, 10, day) / 1000);
const other = { container: { id: 'beef', name: 'sidecar', config: '' } };

async function recipients(): Promise<string[]> {
  return [await identityToRecipient(await generateIdentity())];
}

async function prune(limits: Limits) {
  const plan = planOf(await survey(folder, { depth: 'manifests' }), folder, limits, NOW);
  const { done, failed } = await carryOut(plan);
  expect(failed).toEqual([]);
  expect(done).toEqual(plan.removals);
  return { ...plan, left: (await readdir(folder)).sort() };
}

describe('a list of checkpoints', () => {
  const statesOf = async (options: Partial<SurveyOptions> = {}) => {
    const { found, others } = await survey(folder, { depth: 'headers', ...options });
    return { states: Object.fromEntries(found.map(({ name, state }) => [name, state])), others };
  };

  test('has archives and folders, and says what can be said without reading them', async () => {
    await writeArchive(at('plain.tar'));
    await writeArchive(at('packed.tar.gz'), { compression: 'gzip' });
    await writeArchive(at('packed.tar.zst'), { compression: 'zstd' });
    await writeArchive(at('sealed.tar.age'), { recipients: await recipients() });
    await writeArchive(at('foreign.tar'), { manifest: undefined });
    await writeFolder(at('folder'));
    await writeArchive(at('new.tar.partial'));
    await truncate(await writeArchive(at('cut.tar')), 20_000);
    await writeArchive(at('short.tar'), { manifest: { members: { 'rootfs-diff.tar': { size: 1, sha256: '' } } } });
    expect((await statesOf()).states).toEqual({
      'plain.tar': 'whole',
      'packed.tar.gz': 'unread',
      'packed.tar.zst': 'unread',
      'sealed.tar.age': 'unread',
      'foreign.tar': 'whole',
      folder: 'whole',
      'new.tar.partial': 'unfinished',
      'cut.tar': 'damaged',
      'short.tar': 'damaged',
    });
    expect((await statesOf({ depth: 'everything' })).states).toMatchObject({
      'plain.tar': 'sound',
      'packed.tar.gz': 'sound',
      'packed.tar.zst': 'sound',
      'sealed.tar.age': 'unread',
      folder: 'sound',
      'cut.tar': 'damaged',
    });
  });

  test('has nothing else', async () => {
    await writeFile(at('notes.txt'), 'text');
    await writeFile(at('empty'), '');
    await writeFile(at('other.tar'), layer({ name: 'etc/passwd', content: 'x' }));
    await mkdir(at('dir'));
    await symlink('/etc', at('link'));
    expect(await statesOf()).toEqual({ states: {}, others: ['dir', 'empty', 'link', 'notes.txt', 'other.tar'] });
    await expect(survey(at('none'), { depth: 'headers' })).rejects.toMatchObject({ reason: 'NOT_FOUND' });
  });

  test('opens what is encrypted with its key', async () => {
    const identity = await generateIdentity();
    await writeArchive(at('a.tar.age'), { recipients: [await identityToRecipient(identity)] });
    const { found } = await survey(folder, { depth: 'everything', identities: [identity] });
    expect(found).toMatchObject([{ state: 'sound', facts: { container: { name: 'main' } } }]);
  });
});

describe('what is over a limit is removed:', () => {
  beforeEach(async () => {
    for (const day of [1, 10, 20]) await writeArchive(at(`main-${day}.tar`), { manifest: madeOn(day) });
    await writeArchive(at('sidecar-2.tar'), { manifest: { ...madeOn(2), ...other } });
  });

  test('all but the newest of each container', async () => {
    const { left, removals } = await prune({ keep: 1 });
    expect(left).toEqual(['main-20.tar', 'sidecar-2.tar']);
    expect(removals.map(({ path, group, why }) => [path, group, why])).toEqual([
      [at('main-1.tar'), 'default/server-0/main', 'over --keep 1'],
      [at('main-10.tar'), 'default/server-0/main', 'over --keep 1'],
    ]);
  });

  test('the old ones', async () => {
    expect((await prune({ olderThanMs: 15 * DAY })).left).toEqual(['main-10.tar', 'main-20.tar']);
  });

  test('the oldest of those that are too large together, but never the newest', async () => {
    const { found } = await survey(folder, { depth: 'headers' });
    const size = found[0]?.sizeBytes ?? 0;
    expect((await prune({ maxBytes: 2.5 * size })).left).toEqual(['main-10.tar', 'main-20.tar', 'sidecar-2.tar']);
    expect((await prune({ maxBytes: 1 })).left).toEqual(['main-20.tar', 'sidecar-2.tar']);
  });

  test('folders and compressed ones, too', async () => {
    await writeArchive(at('main-3.tar.gz'), { manifest: madeOn(3), compression: 'gzip' });
    await writeFolder(at('main-4'), { manifest: madeOn(4) });
    expect((await prune({ keep: 2 })).left).toEqual(['main-10.tar', 'main-20.tar', 'sidecar-2.tar']);
  });
});

describe('never removed is', () => {
  test('what is no checkpoint, or cannot be read to its end', async () => {
    await writeFile(at('notes.txt'), 'text');
    await mkdir(at('dir'));
    await truncate(await writeArchive(at('cut.tar'), { manifest: madeOn(1) }), 20_000);
    await symlink('notes.txt', at('link.tar'));
    await writeFile(at('half.tar.gz'), (await gzipped()).subarray(0, 3000));
    const { left, leftAlone } = await prune({ keep: 1, olderThanMs: 1, maxBytes: 1 });
    expect(left).toEqual(['cut.tar', 'dir', 'half.tar.gz', 'link.tar', 'notes.txt']);
    expect(leftAlone.map(({ path }) => path).sort()).toEqual(left.map(at));
  });

  test('a folder into which somebody has put something', async () => {
    await writeFolder(at('old'), { manifest: madeOn(1) });
    await writeFile(join(at('old'), 'notes.txt'), 'do not remove');
    await writeArchive(at('new.tar'), { manifest: madeOn(2) });
    const { left, leftAlone } = await prune({ keep: 1, olderThanMs: 22.5 * DAY });
    expect(left).toEqual(['new.tar', 'old']);
    expect(leftAlone).toEqual([{ path: at('old'), why: 'somebody has put notes.txt into it' }]);
  });

  async function gzipped(): Promise<Buffer> {
    const path = await writeArchive(at('whole.tar.gz'), { compression: 'gzip' });
    const bytes = await readFile(path);
    await rm(path);
    return bytes;
  }

  test('an unfinished one that is younger than a day', async () => {
    await writeArchive(at('new.tar.partial'));
    await writeArchive(at('old.tar.partial'));
    await touch('old.tar.partial', 22);
    await utimes(at('new.tar.partial'), 0, (NOW - DAY / 2) / 1000);
    const { left, removals } = await prune({ keep: 5 });
    expect(left).toEqual(['new.tar.partial']);
    expect(removals).toMatchObject([{ group: 'unfinished', why: expect.stringMatching(/never finished/) }]);
  });

  test('an encrypted one for being one of many; for its age it is, when its name says what it is', async () => {
    const options = { recipients: await recipients() };
    for (const name of ['a.tar.age', 'b.tar.age', 'secrets.age', 'x.age.partial'])
      await writeArchive(at(name), options);
    await touch('x.age.partial', 1);
    await touch('a.tar.age', 1);
    await touch('b.tar.age', 20);
    await touch('secrets.age', 1);
    expect((await prune({ keep: 1, maxBytes: 1 })).left).toEqual([
      'a.tar.age',
      'b.tar.age',
      'secrets.age',
      'x.age.partial',
    ]);
    const { left, removals } = await prune({ olderThanMs: 7 * DAY });
    expect(left).toEqual(['b.tar.age', 'secrets.age', 'x.age.partial']);
    expect(removals).toMatchObject([{ path: at('a.tar.age'), group: 'encrypted' }]);
  });
});

test('sizes and times are read as people write them', () => {
  expect(['10G', '1.5M', '4096', '2KiB', '7x', '', '-1'].map(parseBytes)).toEqual([
    ...[10 * 2 ** 30, 1.5 * 2 ** 20, 4096, 2048],
    ...[undefined, undefined, undefined],
  ]);
  expect(['7d', '12h', '90m', '30s', '2w', '7', 'd'].map(parseDuration)).toEqual([
    ...[7 * DAY, DAY / 2, 5_400_000, 30_000, 14 * DAY],
    ...[undefined, undefined],
  ]);
});
