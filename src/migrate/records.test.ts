import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Log, logTo } from '../log.ts';
import { Records } from './records.ts';

let stateDir: string;
let said: string;
let log: Log;

beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'records-'));
  said = '';
  log = logTo({ write: (line: string) => (said += line) });
});
afterEach(() => rm(stateDir, { recursive: true, force: true }));

const open = (kept = 1000) => Records.open(stateDir, kept, log);
const id = (number: number) => number.toString(16).padStart(16, '0');
const begun = (number: number, side: 'source' | 'target' = 'source') => ({
  operation: id(number),
  side,
  pod: { namespace: 'default', name: `pod-${number}` },
  containers: ['c1'],
  peer: 'b',
  mode: 'stop-and-copy',
});
const names = async () => (await readdir(join(stateDir, 'history'))).toSorted();

describe('Records', () => {
  it('are on disk from the start, and as they ended', async () => {
    const records = await open();
    await records.begin(begun(1));
    expect((await open()).all()).toMatchObject([{ ...begun(1), state: 'running', endedUnixMs: 0 }]);
    const phases = [{ name: 'dump', startMs: 1, durationMs: 2 }];
    await records.change('source', id(1), { state: 'serving', phases, bytes: 5, frozenMs: 7 });
    const [record] = (await open()).all();
    expect(record).toMatchObject({ state: 'serving', phases, bytes: 5, frozenMs: 7 });
    expect(record?.endedUnixMs).toBeGreaterThanOrEqual(record?.startedUnixMs ?? Infinity);
    expect((await stat(join(stateDir, 'history', `${id(1)}.source.json`))).mode & 0o777).toBe(0o600);
  });

  it('have both sides of one migration apart', async () => {
    const records = await open();
    await Promise.all([records.begin(begun(1)), records.begin(begun(1, 'target'))]);
    await records.change('target', id(1), { state: 'serving' });
    expect(records.find('source', id(1))?.state).toBe('running');
    expect(records.find('target', id(1))?.state).toBe('serving');
  });

  it('have nothing to change of what has none', async () => {
    const records = await open();
    await records.change('source', id(9), { state: 'serving' });
    expect(records.all()).toEqual([]);
    expect(await names()).toEqual([]);
  });

  it('are written in the order in which they were told', async () => {
    const records = await open();
    void records.begin(begun(1));
    for (let bytes = 1; bytes <= 20; bytes++) void records.change('source', id(1), { bytes });
    await records.written;
    expect((await open()).find('source', id(1))?.bytes).toBe(20);
  });

  it('say of what the agent before had under way that it was cut off; the journal decides what has an entry', async () => {
    const before = await open();
    for (const number of [1, 2, 3]) await before.begin(begun(number));
    await before.change('source', id(3), { state: 'serving' });
    const after = await open();
    await after.cutOff(({ operation }) => operation === id(2));
    expect(after.find('source', id(1))).toMatchObject({ state: 'rolled-back', message: 'cut off: the agent ended' });
    expect(after.find('source', id(2))).toMatchObject({ state: 'running', message: 'cut off: the agent ended' });
    expect(after.find('source', id(3))).toMatchObject({ state: 'serving', message: '' });
    expect((await open()).find('source', id(1))?.state).toBe('rolled-back');
  });

  it('are the newest so many; what runs stays', async () => {
    const records = await open(3);
    await records.begin(begun(0));
    for (let number = 1; number <= 5; number++) {
      await new Promise((resolve) => setTimeout(resolve, 2));
      await records.begin(begun(number));
      await records.change('source', id(number), { state: 'serving' });
    }
    expect(await names()).toEqual([0, 4, 5].map((number) => `${id(number)}.source.json`));
  });

  it('pass over damaged ones, and say so', async () => {
    await (await open()).begin(begun(1));
    const folder = join(stateDir, 'history');
    const whole = await readFile(join(folder, `${id(1)}.source.json`), 'utf8');
    await writeFile(join(folder, `${id(2)}.source.json`), whole.slice(0, 40));
    await writeFile(join(folder, `${id(3)}.source.json`), '{"version": 99}');
    await writeFile(join(folder, `${id(4)}.source.json.new`), 'half of it');
    const records = await open();
    expect(records.all().map(({ operation }) => operation)).toEqual([id(1)]);
    expect(said.match(/record-unreadable/g)).toHaveLength(2);
    expect(await names()).toEqual([1, 2, 3].map((number) => `${id(number)}.source.json`));
  });

  it('that cannot be written are told to the log, and nothing fails', async () => {
    const records = await open();
    await rm(join(stateDir, 'history'), { recursive: true });
    await records.begin(begun(1));
    expect(said).toContain('record-not-written');
    expect(records.find('source', id(1))?.state).toBe('running');
  });
});
