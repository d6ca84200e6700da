import { mkdtempDisposable, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../../src/agent/config.ts';
import { makeAuthority, makeNodeCertificate } from '../../src/agent/pki.ts';
import type { Reason } from '../../src/errors.ts';
import { ContainerState, NamespaceMode } from '../../src/gen/cri.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { connectPeer } from '../../src/transfer/peer.ts';
import type { NodeEnvironment } from '../lab.ts';
import { addContainer, type Pod } from '../pods.ts';
import { Command, type ContainerPlan, expectReason, type Served, until, World } from './world.ts';

let world: World;
let pod: Pod;
let served: Served;

beforeAll(async () => {
  world = await World.up('t-errors');
  const first = await world.serveRedis({ mebibytes: 24 });
  await first.counter.stop();
  pod = first.pod;
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.connect(pod);
});
afterEach(() => served?.counter.stop(0));

/** The Redis of this file runs on a with its connection, and nothing else is anywhere. */
async function expectUntouched(): Promise<void> {
  await served.expectAlive('a');
  await world.expectNothingLeft();
}

async function migrateFails(reason: Reason, ...says: (string | RegExp)[]): Promise<void> {
  expectReason(await world.gantry(world.a, 'migrate', pod.container, '--to', 'b'), reason, ...says);
}

test.each(['placeholder=0.001', 'send memory=0.001', 'frozen=0.05'])(
  'a phase over its limit (%s) is rolled back, and the connection stays',
  async (limit) => {
    const ended = await world.gantry(world.a, 'migrate', pod.container, '--to', 'b', '--timeout', limit);
    expectReason(ended, 'TIMEOUT', limit.split('=')[0] as string);
    await expectUntouched();
  },
);

describe('what is named', () => {
  test('a container that does not exist', async () => {
    expectReason(await world.gantry(world.a, 'migrate', 'nobody', '--to', 'b'), 'NOT_FOUND', 'nobody');
    await expectUntouched();
  });

  test('a container that has ended', async () => {
    const { sandbox, container } = await world.runContainer(world.a, {
      name: 'ended',
      container: { command: ['true'] },
    });
    using cri = new Cri(world.a.runtimeSocket);
    await until('it has ended', async () => (await cri.describe(container)).state === ContainerState.CONTAINER_EXITED);
    expectReason(await world.gantry(world.a, 'migrate', 'ended', '--to', 'b'), 'NOT_RUNNING', /ended.*not running/);
    await cri.removeSandbox(sandbox);
    await expectUntouched();
  });

  test('a name that two containers have', async () => {
    const twins = [
      await world.runContainer(world.a, { name: 'twin' }),
      await world.runContainer(world.a, { name: 'twin' }),
    ];
    const ended = await world.gantry(world.a, 'migrate', 'twin', '--to', 'b');
    expectReason(ended, 'NOT_FOUND', ...twins.map(({ container }) => container.slice(0, 13)));
    using cri = new Cri(world.a.runtimeSocket);
    for (const { sandbox } of twins) await cri.removeSandbox(sandbox);
    await expectUntouched();
  });

  test.each([
    ['a verb without its arguments', ['migrate']],
    ['a migration to nowhere', ['migrate', 'redis']],
    ['an option that does not exist', ['migrate', 'redis', '--to', 'b', '--fast']],
    ['a format that does not exist', ['ps', '-o', 'xml']],
    ['a verb that does not exist', ['move', 'redis']],
  ])('%s is wrong usage', async (_, args) => {
    const { exitCode, stderr, stdout } = await new Command(args).ended;
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: '' });
    expect(stderr).toMatch(/^error: .*(migrate|--to|--fast|xml|move|container)/);
    await served.expectAlive('a');
  });
});

describe('the peer', () => {
  test('is not in the configuration', async () => {
    const ended = await world.gantry(world.a, 'migrate', pod.container, '--to', 'c');
    expectReason(ended, 'PEER_UNKNOWN', /peer named c /, 'node a');
    expect(ended.failure?.hint).toContain('b');
    await expectUntouched();
  });

  test('is this node itself', async () => {
    expectReason(await world.gantry(world.a, 'migrate', pod.container, '--to', 'a'), 'PEER_UNKNOWN', /peer named a /);
    await expectUntouched();
  });

  test('has no agent', async () => {
    {
      await using _ = await world.without(world.b, 'agent');
      await migrateFails('PEER_UNREACHABLE', 'peer b', `${world.b.address}:7440`, 'ECONNREFUSED');
    }
    await expectUntouched();
  });

  test('lies behind a network that swallows everything', async () => {
    {
      await using _ = await world.cut();
      await migrateFails('PEER_UNREACHABLE', 'peer b', `${world.b.address}:7440`, 'ETIMEDOUT');
    }
    await expectUntouched();
  });

  test('takes the connection and then says nothing', async () => {
    {
      using _ = await world.halted(world.b, 'agent');
      await migrateFails('PEER_UNREACHABLE', 'peer b', 'ETIMEDOUT');
    }
    await expectUntouched();
  });
});

describe('certificates', () => {
  const folder = '/etc/gantry/pki';

  /** Gives a node a certificate of this authority (the lab's, or one nobody knows) for this name, until disposed. */
  async function certified(node: NodeEnvironment, authority: 'lab' | 'other', name: string): Promise<AsyncDisposable> {
    await using own = await mkdtempDisposable(join(tmpdir(), 'gantry-pki-'));
    const ca = authority === 'lab' ? join(node.logs, '../../pki') : join(own.path, 'ca');
    if (authority === 'other') await makeAuthority(ca, 1);
    await makeNodeCertificate(name, ca, join(own.path, 'node'), 1);
    const files = ['node.crt', 'node.key'];
    const kept = await Promise.all(files.map((file) => readFile(world.path(node, `${folder}/${file}`))));
    const write = (contents: readonly Buffer[]) =>
      Promise.all(files.map((file, index) => writeFile(world.path(node, `${folder}/${file}`), contents[index] ?? '')));
    await write(await Promise.all(files.map((file) => readFile(join(own.path, 'node', file)))));
    // A listening agent has read it when it started.
    await world.restart(node, 'agent');
    return {
      async [Symbol.asyncDispose]() {
        await write(kept);
        await world.restart(node, 'agent');
      },
    };
  }

  test("the peer's is of an authority that is not ours", async () => {
    {
      await using _ = await certified(world.b, 'other', 'b');
      await migrateFails('PEER_UNTRUSTED', 'peer b', /trusted here/);
    }
    await expectUntouched();
  });

  test("the peer's is of our authority, for another name", async () => {
    {
      await using _ = await certified(world.b, 'lab', 'c');
      await migrateFails('PEER_UNTRUSTED', 'peer b', 'ERR_TLS_CERT_ALTNAME_INVALID');
    }
    await expectUntouched();
  });

  test('ours is of an authority that the peer does not know', async () => {
    {
      await using _ = await certified(world.a, 'other', 'a');
      await migrateFails('PEER_UNTRUSTED', /node b does not accept the certificate/);
    }
    await expectUntouched();
  });

  test("ours is for a name that is no peer's there", async () => {
    {
      await using _ = await certified(world.a, 'lab', 'stranger');
      await migrateFails('PEER_UNTRUSTED', /stranger.*node b/);
    }
    await expectUntouched();
  });
});

test('a peer cannot name a path as its operation', async () => {
  const pki = world.path(world.a, '/etc/gantry/pki');
  const config = parseConfig(
    JSON.stringify({
      node: 'a',
      peerListen: '127.0.0.1:0',
      peers: { b: `${world.b.address}:7440` },
      tls: { ca: `${pki}/ca.crt`, cert: `${pki}/node.crt`, key: `${pki}/node.key` },
    }),
    'test',
  );
  for (const operation of ['../../tmp/x', '', 'x', '../migrations/0123456789abcdef']) {
    for (const purpose of [
      { kind: 'session' as const, operation },
      { kind: 'outcome' as const, operation },
    ]) {
      await expect(connectPeer(config, 'b', purpose)).rejects.toMatchObject({ reason: 'USAGE' });
    }
  }
  // One that is none of ours is asked for as usual.
  const { socket, outcome } = await connectPeer(config, 'b', { kind: 'outcome', operation: '0123456789abcdef' });
  socket.destroy();
  expect(outcome).toBe('none');
  await expectUntouched();
});

describe('pods that cannot move yet', () => {
  const pid = (mode: NamespaceMode) => ({ linux: { securityContext: { namespaceOptions: { pid: mode } } } });
  const hostNetwork = {
    linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } } },
  };
  const hostIpc = {
    linux: { securityContext: { namespaceOptions: { ipc: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } } },
  };
  const plans = {
    'mounts a folder of the node': [{ container: { mounts: [{ hostPath: '/tmp', containerPath: '/m' }] } }, '/tmp'],
    'has a terminal': [{ container: { tty: true, stdin: true } }, 'terminal'],
    "uses the node's network": [
      { sandbox: { hostname: '', ...hostNetwork }, container: hostNetwork },
      "node's network",
    ],
    "uses the node's IPC namespace": [{ sandbox: hostIpc, container: hostIpc }, "node's IPC"],
    "shares the pod's PID namespace": [
      { sandbox: pid(NamespaceMode.POD), container: pid(NamespaceMode.POD) },
      'PID namespace',
    ],
    "shares the node's PID namespace": [
      { sandbox: pid(NamespaceMode.NODE), container: pid(NamespaceMode.NODE) },
      'PID namespace',
    ],
  } satisfies Record<string, [Omit<ContainerPlan, 'name'>, string]>;

  test.each(Object.entries(plans))('one that %s', async (_, [plan, says]) => {
    const { sandbox, container } = await world.runContainer(world.a, { name: 'stays', ...plan });
    expectReason(await world.gantry(world.a, 'migrate', 'stays', '--to', 'b'), 'UNSUPPORTED', says);
    using cri = new Cri(world.a.runtimeSocket);
    expect((await cri.describe(container)).state).toBe(ContainerState.CONTAINER_RUNNING);
    await world.expectNothingLeft();
    await cri.removeSandbox(sandbox);
    await expectUntouched();
  });

  test('one with two running containers', async () => {
    const second = await addContainer(world.a.runtimeSocket, pod.sandbox, 'second', world.images.busybox, [
      'sh',
      '-c',
      'while :; do sleep 1; done',
    ]);
    await migrateFails('UNSUPPORTED', /1 more running container/);
    using cri = new Cri(world.a.runtimeSocket);
    await cri.stopContainer(second, 0);
    await cri.removeContainer(second);
    await expectUntouched();
  });

  test("a kubelet's: it is refused, and moves with --force", async () => {
    const theirs = await world.serveRedis({ labels: { 'io.kubernetes.pod.uid': 'u-1' } });
    const refused = await world.gantry(world.a, 'migrate', theirs.pod.container, '--to', 'b');
    expectReason(refused, 'MANAGED_BY_KUBELET', theirs.pod.name, /kubelet/);
    expect(refused.failure?.hint).toContain('--force');
    expect(await theirs.places()).toEqual(['a']);
    await world.expectNothingLeft();

    const forced = await world.gantry(world.a, 'migrate', theirs.pod.container, '--to', 'b', '--force');
    expect(forced.exitCode, forced.stderr).toBe(0);
    await theirs.expectAlive('b');
    await expectUntouched();
  });
});

describe('two at once', () => {
  test('a second migration, and a checkpoint, of a container that is being moved', async () => {
    const twice = await world.serveRedis({ mebibytes: 64 });
    const first = world.begin(world.a, 'migrate', twice.pod.container, '--to', 'b');
    await first.reached('connect');
    const [second, checkpoint] = await Promise.all([
      world.gantry(world.a, 'migrate', twice.pod.container, '--to', 'b'),
      world.gantry(world.a, 'checkpoint', twice.pod.container, '--output', '/var/tmp/twice'),
    ]);
    expectReason(second, 'BUSY', twice.pod.container);
    expectReason(checkpoint, 'BUSY', twice.pod.container);
    expect((await first.ended).exitCode).toBe(0);
    await twice.expectAlive('b');
    await expectUntouched();
  });

  test('a pod that the peer already has: both go on', async () => {
    // The same pod file, run with crictl on both nodes.
    const metadata = { name: 'same', namespace: 'default', uid: 'same-uid', attempt: 0 };
    const plan = { name: 'same', sandbox: { metadata } };
    const [onA, onB] = await Promise.all([world.runContainer(world.a, plan), world.runContainer(world.b, plan)]);
    expectReason(
      await world.gantry(world.a, 'migrate', 'same', '--to', 'b'),
      'BUSY',
      'on node b',
      /same-uid/,
      onB.sandbox,
    );
    for (const [node, { container }] of [
      [world.a, onA],
      [world.b, onB],
    ] as const) {
      using cri = new Cri(node.runtimeSocket);
      expect((await cri.describe(container)).state).toBe(ContainerState.CONTAINER_RUNNING);
    }
    await world.expectNothingLeft();
    for (const [node, each] of [
      [world.a, onA],
      [world.b, onB],
    ] as const) {
      using cri = new Cri(node.runtimeSocket);
      await cri.removeSandbox(each.sandbox);
    }
    await expectUntouched();
  });
});
