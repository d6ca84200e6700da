import { readdir, readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { addressesOf } from '../../src/network/address.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { type LabEnvironment, labDown, labUp, type NodeEnvironment } from '../lab.ts';
import { type Pod, runPod } from '../pods.ts';
import { RedisConnection, type Reply } from '../redis.ts';
import { execIn, type Move, migrate, nodeNamed, RedisScenario, runningOn } from '../scenario.ts';
import { leftoversOn, partsOn } from './leftovers.ts';

const NAME = 't-e2e';
const MEBIBYTES = 32;

let lab: LabEnvironment;
let a: NodeEnvironment;
let b: NodeEnvironment;
let redis: RedisScenario;
let writer: Pod;

beforeAll(async () => {
  lab = await labUp({ name: NAME });
  [a, b] = [nodeNamed(lab, 'a'), nodeNamed(lab, 'b')];
  redis = await RedisScenario.start(lab);
  await redis.fill(MEBIBYTES);
  await redis.connect();
  // Redis' image, because it has a folder (/usr/bin) that nothing in it needs.
  const command = ['sh', '-c', 'while :; do date; sleep 1; done'];
  writer = await runPod(a.runtimeSocket, a.pid, { name: 'writer', image: lab.images.redis, command });
});

afterAll(() => labDown(NAME));

describe('a Redis with clients from outside', () => {
  let ticker: RedisConnection;
  let ticks = 0;
  let identity: string;
  let clients: string[];

  beforeAll(async () => {
    ticker = await RedisConnection.open(redis.pod.address);
    identity = await identityOf(a, redis.container);
    clients = await clientsOf(redis);
  });
  afterAll(() => ticker?.close());

  test('knows its clients as the machine outside the nodes', () => {
    const outside = new RegExp(`^id=\\d+ addr=${lab.clientAddress}:\\d+ laddr=${redis.pod.address}:6379$`);
    expect(clients).toEqual([expect.stringMatching(outside), expect.stringMatching(outside)]);
  });

  test.each([
    ['a', 'b'],
    ['b', 'a'],
    ['a', 'b'],
    ['b', 'a'],
  ])('moves from %s to %s and goes on as if nothing had happened', async (from, to) => {
    expect(redis.node.name).toBe(from);
    const { move, answers } = await countDuring(() => redis.move(to));
    expect(move.migration).toMatchObject({ node: to, mode: 'stop-and-copy', addresses: [redis.pod.address] });
    await expectMoved('redis', from, to, move.migration);
    expect(answers).toEqual(answers.map((_, index) => ticks + 1 + index));
    ticks += answers.length;
    expect(await addressOf(redis.node, redis.sandbox)).toBe(redis.pod.address);
    expect(await identityOf(redis.node, redis.container)).toBe(identity);
    expect(await clientsOf(redis)).toEqual(clients);
  });

  /** What the requests made during a move were answered, in their order: the scenario's counter tells only at its end. */
  async function countDuring(action: () => Promise<Move>): Promise<{ move: Move; answers: number[] }> {
    const replies: Promise<Reply>[] = [];
    const timer = setInterval(() => {
      const reply = ticker.send('INCR', 'ticks');
      reply.catch(() => undefined); // Told below.
      replies.push(reply);
    }, 5);
    const move = await action().finally(() => clearInterval(timer));
    return { move, answers: (await Promise.all(replies)).map(Number) };
  }
});

describe('a pod that has changed its files', () => {
  let files: string;
  let identity: string;

  beforeAll(async () => {
    await execIn(a.runtimeSocket, writer.container, ['sh', '-c', CHANGE_FILES]);
    files = await execIn(a.runtimeSocket, writer.container, ['sh', '-c', DESCRIBE_FILES]);
    identity = await identityOf(a, writer.container);
  });

  test('has an environment and a host name', () => {
    expect(identity.split('\n')).toEqual(expect.arrayContaining(['writer', 'GANTRY_TEST=a value with spaces']));
  });

  test('has made every kind of change that a writable layer can hold', () => {
    expect(files.split('\n')).toEqual([
      'written by the container',
      'also new', // appended to a file of the image
      'no /etc/group', // deleted, of the image
      '/usr/bin: only', // opaque
      '2 links to one file',
      '/work/link -> ../root/file',
      '/work/odd 4751 1234:5678 1000000000',
      '/work 2731 77:88',
      'sparse 67108864, few blocks',
      '/work/pipe is a pipe',
    ]);
  });

  test('has the same files, environment, host name and address after a move, and its log goes on', async () => {
    const moved = await moveWriter(a, b);
    await expectMoved('writer', 'a', 'b', moved);
    await expectSameWriter(b, moved);
  });

  test('passes another pod that moves the other way at the same time', async () => {
    const [there, back] = await Promise.all([redis.move('b'), moveWriter(b, a)]);
    await expectMoved('redis', 'a', 'b', there.migration);
    await expectMoved('writer', 'b', 'a', back);
    await expectSameWriter(a, back);
  });

  async function expectSameWriter(node: NodeEnvironment, { containerId, sandboxId }: Ids): Promise<void> {
    const movedAt = Date.now();
    expect(await execIn(node.criSocket, containerId, ['sh', '-c', DESCRIBE_FILES])).toBe(files);
    expect(await identityOf(node, containerId)).toBe(identity);
    expect(await addressOf(node, sandboxId)).toBe(writer.address);
    await vi.waitFor(async () => expect(await lastLogged(node, containerId)).toBeGreaterThan(movedAt), 5000);
  }
});

test('a pod that starts one program after the other moves there and back', async () => {
  // Often in the middle of a vfork, which can be neither frozen nor dumped, and with fewer processes a moment later.
  const command = ['sh', '-c', 'while :; do date; sleep 0.01; done'];
  await runPod(a.runtimeSocket, a.pid, { name: 'busy', image: lab.images.busybox, command });
  await expectMoved('busy', 'a', 'b', await migrate(lab, 'a', 'b', 'busy'));
  await expectMoved('busy', 'b', 'a', await migrate(lab, 'b', 'a', 'busy'));
});

test('an address that has come home is freed with its pod; one that is away stays reserved', async () => {
  expect(await reservedOn(a)).toEqual(expect.arrayContaining([writer.address, redis.pod.address]));
  using cri = new Cri(a.runtimeSocket);
  for (const { id } of await cri.listSandboxes()) await cri.removeSandbox(id);
  expect(await reservedOn(a)).toEqual([redis.pod.address]);
  // What CNI gave to Redis' sandbox before the pod's own address took its place.
  expect(await reservedOn(b)).toHaveLength(1);
});

test('in the end nothing was lost, nothing came twice, and the data are the same', async () => {
  const { requests, digestBefore, digestAfter, ...faults } = await redis.finish();
  expect(faults).toEqual({ lost: 0, repeated: 0, reconnects: 0 });
  expect(requests).toBeGreaterThan(5000);
  expect(digestAfter).toBe(digestBefore);
});

interface Ids {
  containerId: string;
  sandboxId: string;
}

function moveWriter(from: NodeEnvironment, to: NodeEnvironment) {
  return migrate(lab, from.name, to.name, 'writer');
}

/** It runs on one node only, whoever is asked, and the other one is as if it had never been there. */
async function expectMoved(pod: string, from: string, to: string, { containerId, sandboxId }: Ids): Promise<void> {
  for (const socket of ['runtimeSocket', 'criSocket'] as const) {
    expect(await runningOn(lab, pod, socket)).toEqual([to]);
    expect(await partsOn(nodeNamed(lab, from), pod, socket)).toEqual([]);
    expect(await partsOn(nodeNamed(lab, to), pod, socket)).toEqual([
      { sandbox: sandboxId, ready: true },
      { container: containerId },
    ]);
  }
  expect(await Promise.all([leftoversOn(lab, a), leftoversOn(lab, b)])).toEqual([[], []]);
}

/** Command line, environment (which Redis overwrites) and host name of a container's first process. */
function identityOf(node: NodeEnvironment, container: string): Promise<string> {
  const script = "hostname; for file in cmdline environ; do tr '\\0' '\\n' </proc/1/$file; done";
  return execIn(node.criSocket, container, ['sh', '-c', script]);
}

/** What Redis says of its connections from this machine, without what changes from one second to the next. */
async function clientsOf({ node, container }: RedisScenario): Promise<string[]> {
  const text = await execIn(node.criSocket, container, ['redis-cli', 'client', 'list']);
  const lines = text.split('\n').filter((line) => line.includes(` addr=${lab.clientAddress}:`));
  return lines.map((line) =>
    line
      .split(' ')
      .filter((field) => /^(id|addr|laddr)=/.test(field))
      .join(' '),
  );
}

/** Of the interface itself: CRI tells another one, the placeholder's (docs/architecture.md). */
async function addressOf(node: NodeEnvironment, sandbox: string): Promise<string | undefined> {
  using cri = new Cri(node.runtimeSocket);
  const { pid } = await cri.describeSandbox(sandbox);
  const addresses = await addressesOf(`/proc/${node.pid}/root/proc/${pid}/ns/net`);
  return addresses.map(({ local }) => local).join();
}

/** Addresses that CNI's host-local plugin will not give to anybody else. */
async function reservedOn(node: NodeEnvironment): Promise<string[]> {
  const names = await readdir(`/proc/${node.pid}/root/var/lib/cni/networks/gantry`);
  return names.filter((name) => /^[\d.]+$/.test(name));
}

/** When the last line of a container's log was written, in Unix milliseconds: "2026-11-01T12:00:00.5Z stdout F text". */
async function lastLogged(node: NodeEnvironment, container: string): Promise<number> {
  using cri = new Cri(node.runtimeSocket);
  const { status } = await cri.containerStatus(container);
  const log = await readFile(`/proc/${node.pid}/root${status?.logPath}`, 'utf8');
  return Date.parse(log.trimEnd().split('\n').at(-1)?.split(' ')[0] ?? '');
}

const CHANGE_FILES = `
set -e
mkdir /work
echo written by the container >/root/file
echo also new >>/etc/passwd
rm /etc/group
rm -rf /usr/bin && mkdir /usr/bin && echo 1 >/usr/bin/only
echo pair >/work/one && ln /work/one /root/other
ln -s ../root/file /work/link
echo odd >/work/odd && chown 1234:5678 /work/odd && chmod 4751 /work/odd && touch -d @1000000000 /work/odd
dd if=/dev/zero of=/work/sparse bs=1 count=1 seek=67108863 2>/dev/null
mkfifo /work/pipe
chown 77:88 /work && chmod 2731 /work
`;

/** One line for each change; sizes on disk and inode numbers as what matters about them, since they may differ. */
const DESCRIBE_FILES = `
cat /root/file
tail -n 1 /etc/passwd
[ -e /etc/group ] || echo no /etc/group
echo /usr/bin: $(ls -A /usr/bin)
[ $(stat -c %i /work/one) = $(stat -c %i /root/other) ] && echo $(stat -c %h /work/one) links to one file
echo "/work/link -> $(readlink /work/link)"
stat -c '%n %a %u:%g %Y' /work/odd
stat -c '%n %a %u:%g' /work
[ $(stat -c %b /work/sparse) -lt 64 ] && echo sparse $(stat -c %s /work/sparse), few blocks
[ -p /work/pipe ] && echo /work/pipe is a pipe
`;
