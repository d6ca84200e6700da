import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Moment, moments, type Served, World } from './world.ts';

/*
 * containerd is killed at a moment of a migration; its supervisor starts it again 0.2 s later. Containers go on without it.
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
