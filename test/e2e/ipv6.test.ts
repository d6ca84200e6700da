import { execa } from 'execa';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { bridgeName } from '../../hack/nodes/network.ts';
import { addressesOf } from '../../src/network/address.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { type Pod, runPod } from '../pods.ts';
import { RedisConnection } from '../redis.ts';
import { type Migration, migrate, nodeNamed } from '../scenario.ts';

const NAME = 't-ipv6';

let lab: LabEnvironment;
let pod: Pod;
let redis: RedisConnection;
let before: PodNetwork;
let moved: Migration;

beforeAll(async () => {
  lab = await labUp({ name: NAME, ipv6: true });
  const a = nodeNamed(lab, 'a');
  const portMappings = [{ containerPort: 6379, hostPort: 16379 }];
  pod = await runPod(a.runtimeSocket, a.pid, { name: 'redis', image: lab.images.redis, portMappings });
  before = await networkOf(a, pod.sandbox);
  redis = await RedisConnection.open(before.ipv6);
});

afterAll(async () => {
  redis?.close();
  await labDown(NAME);
});

test('a pod moves with both its addresses, and its link-local one stays', async () => {
  expect(await redis.send('INCR', 'asked')).toBe(1);
  moved = await migrate(lab, 'a', 'b', 'redis');
  expect(moved.addresses).toEqual([pod.address, before.ipv6]);
  const after = await networkOf(nodeNamed(lab, 'b'), moved.sandboxId);
  expect(after.ipv6).toBe(before.ipv6);
  expect(after.mac).not.toBe(before.mac);
  expect(after.linkLocal).not.toBe(before.linkLocal);
});

test('its neighbours are told of the new place of its IPv6 address before they ask', async () => {
  const { mac } = await networkOf(nodeNamed(lab, 'b'), moved.sandboxId);
  await vi.waitFor(async () => expect(await neighbour(before.ipv6)).toBe(mac), { timeout: 5000, interval: 50 });
});

test('its IPv6 connection from outside goes on', async () => {
  expect(await redis.send('INCR', 'asked')).toBe(2);
});

test('the move tells what of its network does not go with it', () => {
  expect(moved.warnings).toEqual([
    expect.stringMatching(/^host port 16379\/tcp \(port 6379 of the pod\): connections/),
  ]);
});

interface PodNetwork {
  readonly mac: string;
  readonly ipv6: string;
  readonly linkLocal: string;
}

async function networkOf(node: NodeEnvironment, sandbox: string): Promise<PodNetwork> {
  using cri = new Cri(node.runtimeSocket);
  const { pid } = await cri.describeSandbox(sandbox);
  const ipv6 = (await addressesOf(`/proc/${node.pid}/root/proc/${pid}/ns/net`)).find(
    ({ family }) => family === 'inet6',
  );
  const command = ['nsenter', `--net=/proc/${pid}/ns/net`, 'ip', '-json', 'address', 'show', 'dev', 'eth0'];
  const { stdout } = await labExec(NAME, node.name, command);
  const [link] = JSON.parse(stdout) as { address: string; addr_info: { local: string; scope: string }[] }[];
  const linkLocal = link?.addr_info.find(({ scope }) => scope === 'link')?.local ?? '';
  return { mac: link?.address ?? '', ipv6: ipv6?.local ?? '', linkLocal };
}

/** The MAC that this machine takes an address to be at. */
async function neighbour(address: string): Promise<string | undefined> {
  const { stdout } = await execa('ip', ['-json', '-6', 'neigh', 'show', address, 'dev', bridgeName(NAME)]);
  return (JSON.parse(stdout) as { lladdr?: string }[])[0]?.lladdr;
}
