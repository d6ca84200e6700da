import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Served, World } from './world.ts';

/*
 * An agent is killed at a moment of a migration; its supervisor starts it again 0.2 s later. "After X" means: as soon as
 * the command has said that phase X is over, plus a delay that leads into the next one.
 */

let world: World;
let served: Served;

beforeAll(async () => {
  world = await World.up('t-crashes');
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.serveRedis({ mebibytes: 48 });
});
afterEach(async () => {
  await served?.counter.stop(0);
  await world.removePods();
});

/** One live copy, somewhere, with its connection; nothing else anywhere. Returns where. */
async function settled(): Promise<string> {
  for (const node of world.nodes) await world.ready(node, 'agent');
  await world.expectNothingLeft();
  const places = await served.places();
  expect(places).toHaveLength(1);
  await served.expectAlive(...places);
  // Nothing woke up meanwhile.
  await world.expectNothingLeft(1000);
  return places.join();
}

/** Kills services of these nodes at one moment of a migration from a to b. */
async function killAfter(phase: string, delayMs: number, ...names: ('a' | 'b')[]) {
  const pids = await Promise.all(names.map((name) => world.pidOf(world[name], 'agent')));
  const command = world.begin(world.a, 'migrate', served.pod.container, '--to', 'b');
  await command.reached(phase);
  await sleep(delayMs);
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  return command.ended;
}

type Moment = [phase: string, delayMs: number];

/** Every moment takes some seconds: `make test` takes some, `make test-crashes` the whole of it. */
function moments(all: Moment[], usual: Moment[]): Moment[] {
  return process.env.GANTRY_ALL_MOMENTS === '1' ? all : usual;
}

const BEFORE_COMMIT = moments(
  [
    ['connect', 0],
    ['connect', 80],
    ['placeholder', 0],
    ['placeholder', 30],
    ['sync files', 0],
    ['freeze', 0],
    ['freeze', 50],
    ['dump', 0],
    ['dump', 80],
    ['send memory', 0],
    ['send memory', 60],
  ],
  [
    ['placeholder', 30],
    ['dump', 0],
    ['send memory', 60],
  ],
);

describe("the source's agent is killed", () => {
  test.each(BEFORE_COMMIT)('after "%s" and %i ms: the container goes on here', async (phase, delayMs) => {
    const ended = await killAfter(phase, delayMs, 'a');
    expect(ended.failure).toMatchObject({ reason: 'AGENT_UNAVAILABLE', exitCode: 27 });
    expect(await settled()).toBe('a');
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
    const ended = await killAfter(phase, delayMs, 'a');
    const place = await settled();
    if (ended.exitCode === 0) expect(place).toBe('b');
    else expect(ended.failure?.reason).toBe('AGENT_UNAVAILABLE');
  });
});

describe("the target's agent is killed", () => {
  test.each(BEFORE_COMMIT)('after "%s" and %i ms: the container goes on here', async (phase, delayMs) => {
    const ended = await killAfter(phase, delayMs, 'b');
    expect(ended.exitCode, ended.stderr).toBe(13);
    expect(ended.failure).toMatchObject({ reason: 'PEER_LOST', message: expect.stringMatching(/peer/) });
    expect(await settled()).toBe('a');
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
    const ended = await killAfter(phase, delayMs, 'b');
    expect(await settled()).toBe(ended.exitCode === 0 ? 'b' : 'a');
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
      [
        ['send memory', 60],
        ['commit', 30],
      ],
    ),
  )('after "%s" and %i ms: it goes on here or there', async (phase, delayMs) => {
    await killAfter(phase, delayMs, 'a', 'b');
    const place = await settled();
    if (phase === 'freeze' || phase === 'send memory') expect(place).toBe('a');
    if (phase === 'resume') expect(place).toBe('b');
  });
});
