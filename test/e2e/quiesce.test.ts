import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type LabEnvironment, labDown, labExec, labUp } from '../lab.ts';
import { type Pod, runPod } from '../pods.ts';
import { RedisConnection } from '../redis.ts';
import { migrate, nodeNamed, runningOn } from '../scenario.ts';

/*
 * A Redis whose clients are idle, pause, or never stop: what the wait before the freeze makes of them.
 */

const NAME = 't-quiesce';

let lab: LabEnvironment;
let pod: Pod;
let client: RedisConnection;

beforeAll(async () => {
  lab = await labUp({ name: NAME });
  const a = nodeNamed(lab, 'a');
  pod = await runPod(a.runtimeSocket, a.pid, { name: 'redis', image: lab.images.redis });
  client = await RedisConnection.open(pod.address);
});

afterAll(async () => {
  client?.close();
  await labDown(NAME);
});

/** Counts over connections of its own, one request after the other on each, until it is stopped. */
async function count(connections: number, pauseMs: number) {
  const redis = await Promise.all(Array.from({ length: connections }, () => RedisConnection.open(pod.address)));
  const answers: number[] = [];
  const stop = new AbortController();
  const working = redis.map(async (one) => {
    while (!stop.signal.aborted) {
      answers.push(Number(await one.send('INCR', 'counted')));
      if (pauseMs > 0) await sleep(pauseMs);
    }
  });
  return async () => {
    stop.abort();
    await Promise.all(working);
    for (const one of redis) one.close();
    return answers.sort((one, other) => one - other);
  };
}

/** Every number once. */
function inOrder(answers: readonly number[]): number[] {
  return answers.map((_, index) => (answers[0] ?? 0) + index);
}

test('with an idle client it is quiet at once, and the command says so', async () => {
  const { stdout } = await labExec(NAME, 'a', ['gantry', 'migrate', 'redis', '--to', 'b']);
  const [, waitedMs] = /^quiet after (\d+) ms$/m.exec(stdout) ?? [];
  expect(Number(waitedMs), stdout).toBeLessThan(500);
  expect(stdout).toMatch(/^quiesce /m);
  expect(await client.send('PING')).toBe('PONG');
});

test('between the requests of a client that pauses there is a quiet moment', async () => {
  const stop = await count(1, 50);
  const { quiesced, phases } = await migrate(lab, 'b', 'a', 'redis', ['--quiesce', '10']);
  expect(quiesced).toMatchObject({ quiet: true, packets: 0, waiting: 0 });
  const named = phases.map(({ name }) => name);
  expect(named.indexOf('quiesce')).toBe(named.indexOf('freeze') - 1);
  const answers = await stop();
  expect(answers).toEqual(inOrder(answers));
});

test('several clients that never pause are waited for until the limit, and lose nothing', async () => {
  const stop = await count(8, 0);
  const { quiesced } = await migrate(lab, 'a', 'b', 'redis', ['--quiesce', '0.3']);
  expect(quiesced).toMatchObject({ quiet: false });
  expect(quiesced?.waitedMs).toBeGreaterThanOrEqual(300);
  expect(quiesced?.waitedMs).toBeLessThan(1500);
  expect((quiesced?.packets ?? 0) + (quiesced?.waiting ?? 0)).toBeGreaterThan(0);
  await sleep(200);
  const answers = await stop();
  expect(answers.length).toBeGreaterThan(100);
  expect(answers).toEqual(inOrder(answers));
});

test('what the target is asked before it serves, and fails, is a rollback: it serves where it was', async () => {
  const before = Number(await client.send('INCR', 'asked'));
  const moving = migrate(lab, 'b', 'a', 'redis', ['--verify-tcp', '6379', '--verify-http', '6380/']);
  await expect(moving).rejects.toThrow(/VERIFICATION_FAILED: on node a: HTTP to port 6380, \/, .*: ECONNREFUSED/);
  expect(await client.send('INCR', 'asked')).toBe(before + 1);
  expect(await runningOn(lab, 'redis')).toEqual(['b']);
});

test('what it is asked and answers is no hindrance; nobody waits for quiet when that is not wanted', async () => {
  const options = ['--quiesce', '0', '--verify-tcp', '6379', '--verify-exec', 'test "$(redis-cli ping)" = PONG'];
  const { quiesced, phases } = await migrate(lab, 'b', 'a', 'redis', options);
  expect(await runningOn(lab, 'redis')).toEqual(['a']);
  expect(await client.send('PING')).toBe('PONG');
  expect(quiesced).toBeUndefined();
  expect(phases.map(({ name }) => name)).not.toContain('quiesce');
});
