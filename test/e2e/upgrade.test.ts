import { copyFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ContainerState } from '../../src/gen/cri.ts';
import { Kubelet, type KubeletPod } from '../kubelet.ts';
import { LAB, type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { RedisConnection } from '../redis.ts';
import { nodeNamed } from '../scenario.ts';

/*
 * The example of the README: a Redis 7 becomes a Redis 8, in a pod that stays the same for kubelet.
 */

const NAME = 't-upgrade';
const IMAGES = join(import.meta.dirname, '../../.lab/images');
const KEYS = 1000;

let lab: LabEnvironment;
let node: NodeEnvironment;
let kubelet: Kubelet;
let pod: KubeletPod;

const gantry = (...args: string[]) => labExec(NAME, 'a', ['gantry', ...args], { reject: false });

beforeAll(async () => {
  await execa(LAB, ['root', '--suite', 'bookworm'], { stdin: 'ignore' });
  lab = await labUp({ name: NAME, nodes: 1 });
  node = nodeNamed(lab, 'a');
  // The archives of both suites have the same name inside: each gets one of its own.
  await importAs('bookworm', 'redis:7');
  await importAs('forky', 'redis:8');
  kubelet = new Kubelet(node.criSocket);
  await mkdir(`/proc/${node.pid}/root/var/lib/data`);
  const command = [
    'redis-server',
    '--dir',
    '/data',
    '--save',
    '3600',
    '1',
    '--bind',
    '0.0.0.0',
    '--protected-mode',
    'no',
  ];
  pod = await kubelet.runPod('cache', 'gantry.lab/redis:7', command, [
    { hostPath: '/var/lib/data', containerPath: '/data' },
  ]);
  kubelet.watch();
  // The root folder of another suite may have to be made first.
}, 600_000);
afterAll(async () => {
  await kubelet?.[Symbol.asyncDispose]();
  await labDown(NAME);
});

async function importAs(suite: string, tag: string): Promise<void> {
  const ctr = (...args: string[]) => labExec(NAME, 'a', ['ctr', '-n', 'k8s.io', 'images', ...args]);
  await copyFile(join(IMAGES, suite, 'redis.tar'), `/proc/${node.pid}/root/tmp/redis.tar`);
  await ctr('import', '--local', '/tmp/redis.tar');
  await ctr('tag', lab.images.redis, `gantry.lab/${tag}`);
}

const inRedis = async (...words: string[]) => (await kubelet.exec(pod.container, ['redis-cli', ...words])).trim();
const version = async () => /redis_version:(\S+)/.exec(await inRedis('INFO', 'server'))?.[1];

test('a Redis is upgraded in place, with its data', async () => {
  expect(await version()).toMatch(/^7\./);
  await inRedis('EVAL', `for i = 1, ${KEYS} do redis.call('SET', 'key:' .. i, i) end`, '0');

  const swapped = await gantry('swap', 'main', '--image', 'gantry.lab/redis:8');
  expect(swapped.stdout).toMatch(/^main is container [0-9a-f]{13} now; changed over in \d+ ms$/);
  expect(await version()).toMatch(/^8\./);
  expect(await inRedis('DBSIZE')).toBe(String(KEYS));
  expect(await inRedis('GET', 'key:1000')).toBe('1000');

  const listed = await gantry('ps');
  expect(listed.stdout).toContain(pod.container.slice(0, 13));
  expect(listed.stdout).toContain('occupied');
  const inspected = JSON.parse((await gantry('inspect', 'main', '-o', 'json')).stdout);
  expect(inspected.history).toMatchObject([{ verb: 'swap', result: 'done', image: 'gantry.lab/redis:8' }]);

  const { relists } = kubelet;
  for (let round = 0; round < 100 && kubelet.relists < relists + 2; round++)
    await new Promise((next) => setTimeout(next, 100));
  expect([kubelet.changes, pod.restarts]).toEqual([[], 0]);
  expect(await kubelet.statusOf(pod.container)).toMatchObject({
    state: ContainerState.CONTAINER_RUNNING,
    image: { image: 'gantry.lab/redis:7' },
  });
});

test('an image that does not stay up is taken back by itself', async () => {
  const before = await version();
  const failed = await gantry('swap', 'main', '--image', 'gantry.lab/pause:1', '--settle', '500');
  expect([failed.exitCode, failed.stderr]).toEqual([33, expect.stringContaining('gantry: the new container')]);
  // Connections from outside find it again under the same address.
  const { stdout } = await labExec(NAME, 'a', ['gantry', 'ps', '-o', 'json']);
  expect(JSON.parse(stdout)[0].containers).toHaveLength(1);
  expect(await version()).toBe(before);
  expect(await inRedis('DBSIZE')).toBe(String(KEYS));
  expect([kubelet.changes, pod.restarts]).toEqual([[], 0]);
  const connection = await RedisConnection.open(await addressOf());
  expect(await connection.send('PING')).toBe('PONG');
  connection.close();
});

async function addressOf(): Promise<string> {
  const { stdout } = await labExec(NAME, 'a', [
    'sh',
    '-c',
    `ls /var/lib/cni/networks/gantry | grep '^[0-9]' | head -n 1`,
  ]);
  return stdout.trim();
}
