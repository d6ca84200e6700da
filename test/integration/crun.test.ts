import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { CheckReport, Result } from '../../src/gen/gantry/v1/agent.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { leftoversOn } from '../e2e/leftovers.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { type Pod, type PodOptions, runPod } from '../pods.ts';
import { digest, fill, RedisConnection } from '../redis.ts';
import { execIn, nodeNamed } from '../scenario.ts';

const NAME = 't-crun';
const ARCHIVE = '/var/tmp/crun.tar';

let lab: LabEnvironment;
let node: NodeEnvironment;
let cri: Cri;

beforeAll(async () => {
  lab = await labUp({ name: NAME, nodes: 2 });
  node = nodeNamed(lab, 'a');
  cri = new Cri(node.runtimeSocket);
});
afterAll(async () => {
  cri?.close();
  await labDown(NAME);
});
afterEach(async () => {
  for (const { runtimeSocket } of lab.nodes) {
    using each = new Cri(runtimeSocket);
    for (const { id } of await each.listSandboxes()) await each.removeSandbox(id);
  }
  await shell(`rm -rf ${ARCHIVE} /var/tmp/crun`);
  for (const each of lab.nodes) expect(await leftoversOn(lab, each)).toEqual([]);
});

const shell = async (script: string) => (await labExec(NAME, 'a', ['sh', '-c', script])).stdout;
const gantry = async <Answer = Result>(command: string) =>
  JSON.parse(await shell(`gantry ${command} -o json`)) as Answer;

const COMMAND = ['redis-server', '--save', '', '--protected-mode', 'no'];
const run = (runtimeHandler: string, options: Partial<PodOptions> = {}) =>
  runPod(node.runtimeSocket, node.pid, {
    ...options,
    name: `redis-${runtimeHandler}`,
    image: lab.images.redis,
    command: COMMAND,
    runtimeHandler,
  });

async function connected({ address }: Pod) {
  const redis = await RedisConnection.open(address);
  await fill(redis, 4);
  return Object.assign(redis, { before: await digest(redis) });
}

/** Of the container's own hierarchies, how many have it in the container's groups; and the groups that it sees. */
async function groupsOf(id: string): Promise<{ outside: number; seen: number }> {
  const { pid } = await cri.describe(id);
  const outside = await shell(`grep -vc '/${id}$' /proc/${pid}/cgroup; true`);
  const seen = await shell(`grep ' /sys/fs/cgroup/' /proc/${pid}/mountinfo | grep -vc '/${id} '; true`);
  return { outside: Number(outside), seen: Number(seen) };
}

test('a container of crun is saved and goes on twice, with its memory, its connection and groups of its own', async () => {
  const pod = await run('crun');
  using redis = await connected(pod);
  expect(await gantry<CheckReport>(`check ${pod.sandbox} --window 0`)).toMatchObject({ verdict: 'hot' });
  await gantry(`checkpoint ${pod.container} --output /var/tmp/crun --leave-running --tcp established`);
  expect(await redis.send('PING')).toBe('PONG');
  let { container } = pod;
  for (let generation = 1; generation <= 2; generation++) {
    await gantry(`checkpoint ${container} --archive ${ARCHIVE} --tcp established`);
    await cri.removeContainer(container);
    const restored = await gantry(`restore ${ARCHIVE} --sandbox ${pod.sandbox}`);
    expect(restored.warnings).toEqual([]);
    container = restored.containerId;
    expect(await digest(redis)).toBe(redis.before);
    expect(await groupsOf(container)).toEqual({ outside: 0, seen: 0 });
    await shell(`rm ${ARCHIVE}`);
  }
  const copy = await gantry('restore /var/tmp/crun --new-sandbox copy');
  expect((await cri.describe(copy.containerId)).sandbox.runtimeHandler).toBe('crun');
});

test.each([
  ['runc', 'crun'],
  ['crun', 'runc'],
])('what %s has saved, %s restores, unless it hides paths', async (from, to) => {
  const usual = [await run(from), await run(to)] as const;
  await gantry(`checkpoint ${usual[0].container} --archive ${ARCHIVE} --tcp close`);
  const refused = gantry(`restore ${ARCHIVE} --sandbox ${usual[1].sandbox}`);
  await expect(refused).rejects.toThrow(/UNSUPPORTED.*hidden paths/s);
  for (const { sandbox } of usual) await cri.removeSandbox(sandbox);
  await shell(`rm ${ARCHIVE}`);

  const hidesPaths = false;
  const [first, second] = [await run(from, { hidesPaths }), await run(to, { hidesPaths })];
  using redis = await connected(first);
  await gantry(`checkpoint ${first.container} --archive ${ARCHIVE} --tcp close`);
  await cri.stopContainer(second.container, 0);
  await gantry(`restore ${ARCHIVE} --sandbox ${second.sandbox}`);
  using again = await RedisConnection.open(second.address);
  expect(await digest(again)).toBe(redis.before);
});

test('a pod of crun is saved, and migrates', async () => {
  const pod = await run('crun');
  using redis = await connected(pod);
  await gantry(`checkpoint ${pod.sandbox} --archive ${ARCHIVE} --leave-running --tcp established`);
  const copy = await gantry(`restore ${ARCHIVE} --new-sandbox copy-of-pod --tcp-close`);
  expect((await cri.describeSandbox(copy.sandboxId)).runtimeHandler).toBe('crun');
  const size = (id: string) => execIn(node.runtimeSocket, id, ['redis-cli', 'dbsize']);
  expect(await size(copy.containerId)).toBe(await size(pod.container));
  const moved = await gantry(`migrate ${pod.container} --to b`);
  expect(moved.node).toBe('b');
  expect(await digest(redis)).toBe(redis.before);
});

test('a container of crun goes back in its place', async () => {
  const pod = await run('crun');
  using redis = await connected(pod);
  await gantry(`checkpoint ${pod.container} --output /var/tmp/in-place --leave-running --tcp close`);
  using later = await RedisConnection.open(pod.address);
  await later.send('FLUSHALL');
  await gantry(`restore /var/tmp/in-place --in-place ${pod.container}`);
  using again = await RedisConnection.open(pod.address);
  expect(await digest(again)).toBe(redis.before);
  await shell('rm -r /var/tmp/in-place');
});
