import { mkdir, mkdtemp, readdir, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Node } from '../agent/node.ts';
import { exists } from '../durable.ts';
import { ContainerState } from '../gen/cri.ts';
import { silentLog } from '../log.ts';
import { guard, type Prepared, readPrepared, recoverPrepared, sweepPrepared, writePrepared } from './prepared.ts';

let folder: string;
let node: Node;
/** What the runtime has. */
let states: Record<string, ContainerState>;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'prepared-'));
  states = {};
  const config = { stateDir: join(folder, 'state'), runDir: join(folder, 'run'), imageDir: join(folder, 'images') };
  const cri = { listContainers: async () => Object.entries(states).map(([id, state]) => ({ id, state })) };
  node = { config, cri, log: silentLog, busy: new Set() } as unknown as Node;
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function prepare(container: string, state: ContainerState = ContainerState.CONTAINER_CREATED): Promise<Prepared> {
  const images = join(node.config.imageDir, 'op.prepared', container);
  const prepared = { container, sandbox: 's', images, processes: 1 };
  await mkdir(join(images, 'checkpoint'), { recursive: true });
  await guard(node, container);
  await writePrepared(node, prepared);
  states[container] = state;
  return prepared;
}

const names = async (...path: string[]) => ((await exists(join(...path))) ? (await readdir(join(...path))).sort() : []);
const everything = async () => ({
  records: await names(node.config.stateDir, 'prepared'),
  tickets: await names(node.config.runDir, 'tickets'),
  images: await names(node.config.imageDir, 'op.prepared'),
});

describe('what is prepared', () => {
  test('stays as long as its container waits, and goes when that has started or is gone', async () => {
    const waiting = await prepare('waiting');
    await prepare('running', ContainerState.CONTAINER_RUNNING);
    await prepare('ended', ContainerState.CONTAINER_EXITED);
    await prepare('gone');
    delete states.gone;
    await sweepPrepared(node);
    expect(await readPrepared(node)).toEqual([waiting]);
    expect(await everything()).toEqual({ records: ['waiting.json'], tickets: ['waiting'], images: ['waiting'] });
    delete states.waiting;
    await sweepPrepared(node);
    expect(await everything()).toEqual({ records: [], tickets: [], images: [] });
    expect(await names(node.config.imageDir)).toEqual([]);
  });

  test('is left alone while somebody works on it', async () => {
    await prepare('started', ContainerState.CONTAINER_RUNNING);
    node.busy.add('started');
    await sweepPrepared(node);
    expect((await everything()).records).toEqual(['started.json']);
  });

  test('is guarded again by the next agent, whatever the one before was doing', async () => {
    const { runDir } = node.config;
    for (const one of ['guarded', 'taken', 'real']) await prepare(one);
    await rm(join(runDir, 'tickets/taken'), { recursive: true });
    // The ticket of a start that has not begun.
    await writeFile(join(runDir, 'tickets/real/gate'), '');
    const kept = await recoverPrepared(node);
    expect([...kept].sort()).toEqual(['guarded', 'op.prepared', 'real', 'taken']);
    for (const one of ['guarded', 'taken', 'real']) {
      expect(await readlink(join(runDir, 'tickets', one, 'checkpoint'))).toBe('none');
      expect(await names(runDir, 'tickets', one)).not.toContain('gate');
    }
  });

  test('cannot be started when its file cannot be read, and goes with its container all the same', async () => {
    await prepare('damaged');
    await writeFile(join(node.config.stateDir, 'prepared/damaged.json'), '{');
    expect(await recoverPrepared(node)).toContain('damaged');
    const [damaged] = await readPrepared(node);
    expect(await exists(damaged?.images ?? '')).toBe(false);
    expect(await everything()).toMatchObject({ records: ['damaged.json'], tickets: ['damaged'] });
    delete states.damaged;
    await sweepPrepared(node);
    expect(await everything()).toMatchObject({ records: [], tickets: [] });
  });
});
