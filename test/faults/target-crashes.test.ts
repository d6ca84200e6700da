import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { BEFORE_COMMIT, moments, type Served, World } from './world.ts';

/*
 * The target's agent, or both, are killed at a moment of a migration; supervisors start them again 0.2 s later.
 */

let world: World;
let served: Served;

beforeAll(async () => {
  world = await World.up('t-target-crashes');
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.serveRedis({ mebibytes: 48 });
});
afterEach(async () => {
  await served?.counter.stop(0);
  await world.removePods();
});

describe("the target's agent is killed", () => {
  test.each(BEFORE_COMMIT)('after "%s" and %i ms: the container goes on here', async (phase, delayMs) => {
    const ended = await world.killAfter(served, phase, delayMs, ['b', 'agent']);
    expect(ended.exitCode, ended.stderr).toBe(13);
    expect(ended.failure).toMatchObject({ reason: 'PEER_LOST', message: expect.stringMatching(/peer/) });
    expect(await world.settled(served)).toBe('a');
  });

  test.each(
    moments(
      [
        ['restore', 0],
        ['commit', 0],
        ['commit', 20],
        ['commit', 40],
        ['commit', 60],
        ['resume', 0],
        ['resume', 60],
      ],
      [
        ['commit', 0],
        ['commit', 40],
      ],
    ),
  )('after "%s" and %i ms: it goes on here or there, as the command says', async (phase, delayMs) => {
    const ended = await world.killAfter(served, phase, delayMs, ['b', 'agent']);
    expect(await world.settled(served)).toBe(ended.exitCode === 0 ? 'b' : 'a');
    if (ended.exitCode !== 0) expect(ended.failure?.reason).toBe('PEER_LOST');
  });
});

describe('both agents are killed', () => {
  test.each(
    moments(
      [
        ['freeze', 0],
        ['send memory', 60],
        ['restore', 0],
        ['commit', 0],
        ['commit', 30],
        ['resume', 0],
      ],
      [['send memory', 60]],
    ),
  )('after "%s" and %i ms: it goes on here or there', async (phase, delayMs) => {
    await world.killAfter(served, phase, delayMs, ['a', 'agent'], ['b', 'agent']);
    const place = await world.settled(served);
    if (phase === 'freeze' || phase === 'send memory') expect(place).toBe('a');
    if (phase === 'resume') expect(place).toBe('b');
  });
});

describe("the target's agent is asked to stop", () => {
  test.each([
    ['placeholder', 0],
    ['dump', 0],
    ['send memory', 0],
    ['commit', 0],
  ])('after "%s" and %i ms: it goes on here or there, as the command says', async (phase, delayMs) => {
    const ended = await world.stopAfter(served, phase, delayMs, ['b', 'agent']);
    expect(await world.settled(served)).toBe(ended.exitCode === 0 ? 'b' : 'a');
    if (ended.exitCode !== 0) expect(ended.failure?.reason).toBe('PEER_LOST');
  });
});
