import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { RedisConnection, type Reply } from '../redis.ts';
import { expectReason, type Served, World } from './world.ts';

/*
 * The network between the nodes swallows everything between the agents. A side that hears nothing for six seconds knows
 * that its peer is lost; what it may do then, it does alone.
 */

let world: World;
let served: Served;

beforeAll(async () => {
  world = await World.up('t-partition');
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.serveRedis({ mebibytes: 96 });
});
afterEach(async () => {
  await served?.counter.stop(0);
  await world.removePods();
});

function migrate() {
  return world.begin(world.a, 'migrate', served.pod.container, '--to', 'b');
}

describe('a cut before the commit', () => {
  const moments = [
    ['dump', 100],
    ['placeholder', 0],
  ] as const;
  test.each(process.env.GANTRY_ALL_MOMENTS === '1' ? moments : moments.slice(0, 1))(
    'after "%s" and %i ms: the container goes on here while the network is still cut',
    async (phase, delayMs) => {
      const command = migrate();
      await command.reached(phase);
      await sleep(delayMs);
      {
        await using _ = await world.cut();
        const since = performance.now();
        expectReason(await command.ended, 'PEER_LOST', /peer/);
        expect(performance.now() - since).toBeLessThan(25_000);
        await served.answers();
        expect(await served.places()).toEqual(['a']);
        // Each side has tidied up alone.
        await world.expectNothingLeft();
      }
      await served.expectAlive('a');
      await world.expectNothingLeft();
    },
  );

  test('while it is restored breaks none of many connections that wait for an answer', async () => {
    // Each has asked for something at the moment of the freeze: what the kernel then cannot send, it tries again and
    // again, and after some tries it may give the connection up.
    const clients = await Promise.all(Array.from({ length: 64 }, () => RedisConnection.open(served.pod.address)));
    const answers: Promise<Reply>[] = [];
    const asking = setInterval(() => {
      for (const client of clients) answers.push(client.send('PING').catch((error: unknown) => String(error)));
    }, 2);
    const command = migrate();
    await command.reached('send memory');
    {
      await using _ = await world.cut();
      expectReason(await command.ended, 'PEER_LOST');
    }
    await served.answers();
    clearInterval(asking);
    const all = await Promise.all(answers);
    expect(all.filter((answer) => answer !== 'PONG')).toEqual([]);
    for (const client of clients) client.close();
    await served.expectAlive('a');
    await world.expectNothingLeft();
  });

  test('that is shorter than the limit is not noticed', async () => {
    const command = migrate();
    await command.reached('placeholder');
    {
      await using _ = await world.cut();
      await sleep(1500);
    }
    const ended = await command.ended;
    expect(ended.exitCode, ended.stderr).toBe(0);
    await served.expectAlive('b');
    await world.expectNothingLeft();
  });
});

describe('a cut after the commit', () => {
  /** Halts the target's agent between its word that all is ready and the commit. Returns what its journal knows. */
  async function haltedAtCommit() {
    const agent = await world.pidOf(world.b, 'agent');
    const before = await readdir(journalOfTarget());
    const command = migrate();
    await command.reached('restore');
    process.kill(agent, 'SIGSTOP');
    await command.reached('commit');
    // The commit is on its way into the socket of an agent that does not read.
    await sleep(200);
    return { command, agent, known: await stateOnTarget(before) };
  }

  const journalOfTarget = () => world.path(world.b, '/var/lib/gantry/migrations');

  /** @param before what the journal has of others, which stays for as long as their sources keep something */
  async function stateOnTarget(before: readonly string[]): Promise<string> {
    const [name = ''] = (await readdir(journalOfTarget())).filter((one) => !before.includes(one));
    return (JSON.parse(await readFile(`${journalOfTarget()}/${name}`, 'utf8')) as { state: string }).state;
  }

  test('that the target has heard: it serves there, and the source goes when the network is back', async () => {
    const { command, agent } = await haltedAtCommit();
    {
      await using _ = await world.cut();
      process.kill(agent, 'SIGCONT');
      // The source, frozen and shut, still has its container: only the target could say that it may go.
      await served.arrives('a', 'b');
      await served.answers();
      await sleep(7000);
      expect(await served.places()).toEqual(['a', 'b']);
    }
    const ended = await command.ended;
    expect(ended.exitCode, ended.stderr).toBe(0);
    await world.expectNothingLeft();
    await served.expectAlive('b');
  });

  test('that the target has not heard: it stays frozen until the network is back, and then goes on here', async () => {
    const { command, agent, known } = await haltedAtCommit();
    // It takes the agent four milliseconds to commit, and this test two to notice: now and then the target was faster.
    const wasHeard = known !== 'preparing';
    {
      await using _ = await world.cut();
      process.kill(agent, 'SIGKILL');
      await sleep(8000);
      const answered = served.counter.answeredAt.length;
      await sleep(500);
      expect(served.counter.answeredAt.length === answered).toBe(!wasHeard);
    }
    const ended = await command.ended;
    await world.expectNothingLeft();
    if (!wasHeard) expectReason(ended, 'PEER_LOST');
    const [place = ''] = await served.places();
    expect(place).toBe(ended.exitCode === 0 ? 'b' : 'a');
    await served.expectAlive(place);
  });
});
