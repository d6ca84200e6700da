import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ContainerState } from '../../src/gen/cri.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { type Moment, moments, type Served, World } from './world.ts';

/*
 * containerd is killed at a moment of a migration; its supervisor starts it again 0.2 s later. Containers go on without
 * it. Then the application itself.
 */

let world: World;
let served: Served;

beforeAll(async () => {
  world = await World.up('t-runtime-crashes');
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.serveRedis({ mebibytes: 48 });
});
afterEach(async () => {
  await served?.counter.stop(0);
  await world.removePods();
});

const PHASES: Moment[] = [
  ['connect', 40],
  ['placeholder', 0],
  ['freeze', 0],
  ['send memory', 0],
  ['send memory', 50],
  ['send memory', 100],
  ['restore', 0],
  ['commit', 0],
  ['commit', 20],
  ['resume', 0],
  ['resume', 40],
];

describe("the target's containerd is killed", () => {
  test.each(
    moments(PHASES, [
      ['placeholder', 0],
      ['send memory', 50],
      ['commit', 0],
    ]),
  )('after "%s" and %i ms: it goes on here or there, as the command says', async (phase, delayMs) => {
    const ended = await world.killAfter(served, phase, delayMs, ['b', 'containerd']);
    expect(await world.settled(served)).toBe(ended.exitCode === 0 ? 'b' : 'a');
    if (ended.exitCode !== 0) {
      expect(ended.failure?.reason).toMatch(/^(RUNTIME_UNAVAILABLE|RESTORE_FAILED)$/);
      expect(ended.failure?.message).toContain('on node b');
    }
  });
});

describe("the source's containerd is killed", () => {
  test.each(
    moments(
      [
        ['check', 0],
        ['connect', 0],
        ['freeze', 0],
        ['dump', 0],
        ['restore', 0],
        ['resume', 0],
        ['resume', 40],
      ],
      [
        ['freeze', 0],
        ['resume', 0],
      ],
    ),
  )('after "%s" and %i ms: it goes on here or there, as the command says', async (phase, delayMs) => {
    const ended = await world.killAfter(served, phase, delayMs, ['a', 'containerd']);
    expect(await world.settled(served)).toBe(ended.exitCode === 0 ? 'b' : 'a');
    if (ended.exitCode !== 0) expect(ended.failure?.reason).toBe('RUNTIME_UNAVAILABLE');
  });
});

describe('the application is killed', () => {
  test.each(
    moments(
      [
        ['connect', 0],
        ['placeholder', 0],
        ['sync files', 0],
        ['freeze', 0],
        ['dump', 0],
        ['send memory', 0],
      ],
      [
        ['placeholder', 0],
        ['send memory', 0],
      ],
    ),
  )('after "%s" and %i ms: it has ended here, or goes on there if it was saved before', async (phase, delayMs) => {
    world.known.add(served.pod.sandbox);
    using cri = new Cri(world.a.runtimeSocket);
    const { pid } = await cri.describe(served.pod.container);
    const command = world.begin(world.a, 'migrate', served.pod.container, '--to', 'b');
    await command.reached(phase);
    await sleep(delayMs);
    await world.exec(world.a, 'kill', '-9', String(pid)).catch(() => undefined);
    const ended = await command.ended;
    await world.expectNothingLeft();
    if (ended.exitCode === 0) return served.expectAlive('b');
    expect(ended.failure?.reason).toMatch(/^(NOT_RUNNING|CHECKPOINT_FAILED)$/);
    expect(await served.places()).toEqual([]);
    expect((await cri.describe(served.pod.container)).state).toBe(ContainerState.CONTAINER_EXITED);
  });
});
