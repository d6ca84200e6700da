import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { expectReason, type Served, World } from './world.ts';

let world: World;
let served: Served;

beforeAll(async () => {
  world = await World.up('t-cancel');
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.serveRedis({ mebibytes: 48 });
});
afterEach(async () => {
  await served?.counter.stop(0);
  await world.removePods();
});

function migrate() {
  return world.begin(world.a, 'migrate', served.pod.container, '--to', 'b');
}

/** The other moments come in `make test-crashes`. */
const ALL = process.env.GANTRY_ALL_MOMENTS === '1';

describe('Ctrl-C', () => {
  const moments = [
    ['the placeholder is made', 'connect', 0],
    ['the placeholder is made, later', 'connect', 100],
    ['files are synced', 'placeholder', 0],
    ['files are synced, later', 'placeholder', 25],
    ['the container is frozen', 'sync files', 0],
    ['it is dumped', 'freeze', 0],
    ['it is dumped, later', 'freeze', 60],
    ['memory is sent', 'dump', 0],
    ['memory is sent, later', 'dump', 80],
    ['it is restored', 'send memory', 0],
    ['it is restored, later', 'send memory', 60],
  ] as const;
  test.each(moments.filter(([, , delayMs]) => ALL || delayMs === 0))(
    'while %s rolls back',
    async (_, phase, delayMs) => {
      const command = migrate();
      await command.reached(phase);
      await sleep(delayMs);
      command.signal('SIGINT');
      const ended = await command.ended;
      expectReason(ended, 'CANCELLED', /cancelled/);
      expect(ended.stderr).toContain('rolls back');
      await served.expectAlive('a');
      // The caller is told when nothing is left: an immediate second try is no conflict.
      await world.expectNothingLeft(1000);
    },
  );

  test('after the commit comes too late: the container moves, and the command says so', async () => {
    const command = migrate();
    await command.reached('commit');
    command.signal('SIGINT');
    const ended = await command.ended;
    expect(ended.exitCode, ended.stderr).toBe(0);
    await served.expectAlive('b');
    await world.expectNothingLeft();
  });

  test.each([
    ['answers soon after', 100],
    ['does not answer', 2000],
  ])('before an agent has begun that %s moves nothing', async (_, delayMs) => {
    const agent = await world.halted(world.a, 'agent');
    const command = migrate();
    // Long enough for the command to have called.
    await sleep(500);
    command.signal('SIGINT');
    await sleep(delayMs);
    agent[Symbol.dispose]();
    expectReason(await command.ended, 'CANCELLED');
    // Had it begun after all, it would be over by then.
    await sleep(4000);
    await served.expectAlive('a');
    await world.expectNothingLeft(1000);
  });

  test('and a migration right after it: the second one moves', async () => {
    const first = migrate();
    await first.reached('freeze');
    first.signal('SIGINT');
    expectReason(await first.ended, 'CANCELLED');
    const second = await migrate().ended;
    expect(second.exitCode, second.stderr).toBe(0);
    await served.expectAlive('b');
    await world.expectNothingLeft();
  });
});

describe('a command that is killed', () => {
  test.each(ALL ? ['connect', 'freeze', 'send memory', 'commit'] : ['freeze', 'commit'])(
    'after "%s" changes nothing: the container moves',
    async (phase) => {
      const command = migrate();
      await command.reached(phase);
      command.signal('SIGKILL');
      await command.ended;
      await served.arrives('b');
      await served.expectAlive('b');
      await world.expectNothingLeft();
    },
  );
});
