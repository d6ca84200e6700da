import { afterAll, beforeAll, expect, test } from 'vitest';
import { Cri } from '../../src/runtime/cri.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { addContainer, type Pod, runPod } from '../pods.ts';
import { RedisConnection } from '../redis.ts';
import { execIn, migrate, nodeNamed, runningOn } from '../scenario.ts';
import { leftoversOn } from './leftovers.ts';

/*
 * A pod of two containers moves as one: a Redis, and a client that counts in it over the pod's loopback, all the time, and
 * writes each answer into an emptyDir that both have mounted.
 */

const NAME = 't-pods';
/** As kubelet names an emptyDir's folder. */
const SHARED = '/var/lib/kubelet/pods/0c3a/volumes/kubernetes.io~empty-dir/shared';
const MOUNTS = [{ hostPath: SHARED, containerPath: '/shared' }];
// One connection for all of it: a second one would be seen by the Redis.
const COUNT = 'while :; do echo INCR counted; sleep 0.01; done | redis-cli -h 127.0.0.1 >/shared/answers';

let lab: LabEnvironment;
let pod: Pod;
let client: RedisConnection;

beforeAll(async () => {
  lab = await labUp({ name: NAME });
  const a = nodeNamed(lab, 'a');
  await labExec(NAME, 'a', ['mkdir', '-p', SHARED]);
  pod = await runPod(a.runtimeSocket, a.pid, { name: 'pair', image: lab.images.redis, mounts: MOUNTS });
  await addContainer(a.runtimeSocket, pod.sandbox, 'counter', lab.images.redis, ['sh', '-c', COUNT], MOUNTS);
  client = await RedisConnection.open(pod.address);
  await client.send('SET', 'outside', '0');
});

afterAll(async () => {
  client?.close();
  await labDown(NAME);
});

test('one container of it does not move alone', async () => {
  await expect(migrate(lab, 'a', 'b', 'counter')).rejects.toThrow(
    /UNSUPPORTED: .* 1 more running container\(s\), .* \(gantry migrate pair\)/,
  );
});

test.each([
  ['a', 'b'],
  ['b', 'a'],
])('it moves from %s to %s, with its loopback connection, its emptyDir, /dev/shm and clients', async (from, to) => {
  const source = nodeNamed(lab, from);
  const target = nodeNamed(lab, to);
  const marks = await inPair(source, 'echo moved-from-%s >>/dev/shm/marks; cat /dev/shm/marks'.replace('%s', from));
  const ids = await inPair(source, 'redis-cli client list | grep -v cmd=client | sed "s/ .*//" | sort');
  const before = await answers(source);

  const result = await migrate(lab, from, to, pod.sandbox.slice(0, 13));

  expect(result).toMatchObject({ node: to, mode: 'stop-and-copy', addresses: [pod.address] });
  expect(await client.send('INCR', 'outside')).toBe(from === 'a' ? 1 : 2);
  expect(await runningOn(lab, 'pair')).toEqual([to]);
  expect(await runningOn(lab, 'counter')).toEqual([to]);
  expect(await inPair(target, 'redis-cli client list | grep -v cmd=client | sed "s/ .*//" | sort')).toBe(ids);
  expect(await inPair(target, 'cat /dev/shm/marks')).toBe(marks);
  const after = await answers(target);
  expect(after.length).toBeGreaterThan(before.length);
  // Each number once, and nothing but numbers: not one answer was lost, repeated or an error.
  expect(after).toEqual(after.map((_, index) => String(index + 1)));
  expect(await leftoversOn(lab, source)).toEqual([]);
  pod = { ...pod, sandbox: await sandboxOn(target) };
});

test('its emptyDirs go with it', async () => {
  const a = nodeNamed(lab, 'a');
  using cri = new Cri(a.runtimeSocket);
  await cri.removeSandbox(pod.sandbox);
  const left = async () =>
    (await labExec(NAME, 'a', ['sh', '-c', 'ls /var/lib/gantry/restored-volumes 2>/dev/null || true'])).stdout;
  for (let tries = 0; tries < 300 && (await left()) !== ''; tries++) await new Promise((done) => setTimeout(done, 100));
  expect(await left()).toBe('');
});

async function inPair(node: NodeEnvironment, script: string): Promise<string> {
  using cri = new Cri(node.runtimeSocket);
  const found = (await cri.listContainers()).find(({ metadata }) => metadata?.name === 'pair');
  return execIn(node.runtimeSocket, found?.id ?? '', ['sh', '-c', script]);
}

async function sandboxOn(node: NodeEnvironment): Promise<string> {
  using cri = new Cri(node.runtimeSocket);
  return (await cri.listSandboxes()).find(({ metadata }) => metadata?.name === 'pair')?.id ?? '';
}

/** A line that is being written is not one yet. */
async function answers(node: NodeEnvironment): Promise<string[]> {
  const text = await inPair(node, 'cat /shared/answers; echo -n end');
  return text.split('\n').slice(0, -1);
}
