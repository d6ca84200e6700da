import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { expectReason, type Served, World } from './world.ts';

/*
 * An agent that neither runs nor ends: its connections stay open, and nothing comes through them.
 */

const MOMENTS = [
  ['a', 'restore'],
  ['a', 'send memory'],
  ['b', 'send memory'],
] as const;

let world: World;
let served: Served;

beforeAll(async () => {
  world = await World.up('t-halted');
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.serveRedis({ mebibytes: 48 });
});
afterEach(async () => {
  await served?.counter.stop(0);
  await world.removePods();
});

describe('an agent is halted for longer than its peer waits', () => {
  test.each(process.env.GANTRY_ALL_MOMENTS === '1' ? MOMENTS : MOMENTS.slice(0, 1))(
    'node %s\'s, after "%s": the container goes on here',
    async (name, phase) => {
      const pid = await world.pidOf(world[name], 'agent');
      const command = world.begin(world.a, 'migrate', served.pod.container, '--to', 'b');
      await command.reached(phase);
      process.kill(pid, 'SIGSTOP');
      await sleep(8000);
      process.kill(pid, 'SIGCONT');
      const ended = await command.ended;
      expect(await world.settled(served)).toBe(ended.exitCode === 0 ? 'b' : 'a');
      // Only the one that was halted just after its commit was sent may have moved.
      if (phase !== 'restore') expectReason(ended, 'PEER_LOST');
    },
  );
});
