import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { BEFORE_COMMIT, expectReason, moments, type Served, World } from './world.ts';

/*
 * The source's agent is killed at a moment of a migration; its supervisor starts it again 0.2 s later.
 */

let world: World;
let served: Served;

beforeAll(async () => {
  world = await World.up('t-source-crashes');
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.serveRedis({ mebibytes: 48 });
});
afterEach(async () => {
  await served?.counter.stop(0);
  await world.removePods();
});

describe("the source's agent is killed", () => {
  test.each(BEFORE_COMMIT)('after "%s" and %i ms: the container goes on here', async (phase, delayMs) => {
    const ended = await world.killAfter(served, phase, delayMs, ['a', 'agent']);
    expect(ended.failure).toMatchObject({ reason: 'AGENT_UNAVAILABLE', exitCode: 27 });
    expect(await world.settled(served)).toBe('a');
  });

  test.each(
    moments(
      [
        ['restore', 0],
        ['commit', 0],
        ['commit', 20],
        ['commit', 60],
        ['resume', 0],
        ['resume', 60],
      ],
      [
        ['commit', 0],
        ['resume', 0],
      ],
    ),
  )('after "%s" and %i ms: it goes on here or there', async (phase, delayMs) => {
    const ended = await world.killAfter(served, phase, delayMs, ['a', 'agent']);
    const place = await world.settled(served);
    if (ended.exitCode === 0) expect(place).toBe('b');
    else expect(ended.failure?.reason).toBe('AGENT_UNAVAILABLE');
  });
});

describe("the source's agent is asked to stop", () => {
  test.each([
    ['placeholder', 0],
    ['dump', 0],
    ['send memory', 0],
  ])('after "%s" and %i ms: it rolls back first', async (phase, delayMs) => {
    const ended = await world.stopAfter(served, phase, delayMs, ['a', 'agent']);
    expectReason(ended, 'CANCELLED');
    expect(await world.settled(served)).toBe('a');
  });

  test('after the commit: it carries the migration through first', async () => {
    const ended = await world.stopAfter(served, 'commit', 0, ['a', 'agent']);
    expect(ended.exitCode, ended.stderr).toBe(0);
    expect(await world.settled(served)).toBe('b');
  });
});
