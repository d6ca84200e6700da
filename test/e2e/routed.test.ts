import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import {
  type ContainerEventResponse,
  ContainerEventType,
  RuntimeServiceService as Runtime,
} from '../../src/gen/cri.ts';
import { addressesOf } from '../../src/network/address.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { connectSocket } from '../../src/runtime/grpc.ts';
import { LAB, type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { type Pod, runPod } from '../pods.ts';
import { RedisConnection } from '../redis.ts';
import { execIn, migrate, nodeNamed, RedisScenario, toldAddresses } from '../scenario.ts';

const NAME = 't-routed';
/** An agent that has died is started again, asks its peer every four seconds, and withdraws after two rounds. */
const SETTLED = { timeout: 20_000, interval: 200 };

let lab: LabEnvironment;
let a: NodeEnvironment;
let b: NodeEnvironment;

beforeAll(async () => {
  lab = await labUp({ name: NAME, network: 'routed', ipv6: true });
  [a, b] = [nodeNamed(lab, 'a'), nodeNamed(lab, 'b')];
});

afterAll(() => labDown(NAME));

describe('a Redis in a subnet of its node, with clients outside', () => {
  let redis: RedisScenario;
  let neighbour: Pod;
  let ipv6: string;
  let overIpv6: RedisConnection;

  beforeAll(async () => {
    redis = await RedisScenario.start(lab);
    neighbour = await runPod(a.runtimeSocket, a.pid, { name: 'neighbour', image: lab.images.redis });
    await redis.connect();
    ipv6 = (await addresses(a, redis.sandbox)).find((address) => address.includes(':')) ?? '';
    overIpv6 = await RedisConnection.open(ipv6);
    expect(await overIpv6.send('SET', 'asked', '1')).toBe('OK');
  });
  afterAll(() => overIpv6?.close());

  test('has no route of gantry’s before it moves', async () => {
    expect(await routes()).toEqual([]);
  });

  test('moves to another subnet with its addresses and connections', async () => {
    const { migration } = await redis.move('b');
    expect(migration.addresses).toEqual([redis.pod.address, ipv6]);
    expect(await overIpv6.send('INCR', 'asked')).toBe(2);
    expect(await addresses(b, redis.sandbox)).toEqual([redis.pod.address, ipv6]);
    expect(await routes()).toEqual(routesWhileAway());
  });

  test('is told of with its addresses by the relay, also after a restart of it, of the agent and of the runtime', async () => {
    const own = [redis.pod.address, ipv6];
    expect(await toldAddresses(b.runtimeSocket, redis.sandbox)).toHaveLength(2);
    expect(await toldAddresses(b.runtimeSocket, redis.sandbox)).not.toEqual(own);
    expect(await toldAddresses(b.criSocket, redis.sandbox)).toEqual(own);
    for (const service of ['proxy', 'agent', 'containerd']) {
      await execa(LAB, ['kill', '--name', NAME, 'b', service]);
      await vi.waitFor(async () => expect(await toldAddresses(b.criSocket, redis.sandbox)).toEqual(own), SETTLED);
    }
    await restartAgents();
  });

  test('is reached by the pods it has left, and reaches them', async () => {
    const ping = (on: NodeEnvironment, container: string, host: string) =>
      execIn(on.runtimeSocket, container, ['redis-cli', '-h', host, '-t', '5', 'ping']);
    for (const address of [redis.pod.address, ipv6]) expect(await ping(a, neighbour.container, address)).toBe('PONG');
    expect(await ping(b, redis.container, neighbour.address)).toBe('PONG');
  });

  test('has its routes again when they were lost, once the agents are started', async () => {
    await inNodes('ip -4 route flush proto 199; ip -6 route flush proto 199');
    expect(await routes()).toEqual([]);
    await restartAgents();
    await vi.waitFor(async () => expect(await routes()).toEqual(routesWhileAway()), SETTLED);
    expect(await overIpv6.send('INCR', 'asked')).toBe(3);
  });

  test('comes home, and nothing is left of the routes', async () => {
    await redis.move('a');
    expect(await overIpv6.send('INCR', 'asked')).toBe(4);
    expect(await addresses(a, redis.sandbox)).toEqual([redis.pod.address, ipv6]);
    expect(await toldAddresses(a.criSocket, redis.sandbox)).toEqual([redis.pod.address, ipv6]);
    expect(await routes()).toEqual([]);
    expect(await inNodes('ip neigh show proxy')).toBe('');
    expect(await redis.finish()).toMatchObject({ lost: 0, repeated: 0, reconnects: 0 });
  });

  test('is moved with a warning of the connection that its node translates', async () => {
    const chain = `chain in { type nat hook prerouting priority -100; tcp dport 8080 dnat to ${redis.pod.address}:6379; }`;
    await labExec(NAME, 'a', ['nft', `table ip ports { ${chain}; }`]);
    using through = await RedisConnection.open(a.address, 8080);
    expect(await through.send('PING')).toBe('PONG');
    const { warnings } = await migrate(lab, 'a', 'b', 'redis');
    const client = `${lab.clientAddress}:\\d+`;
    const inside = `${client} → ${redis.pod.address}:6379`;
    const named = new RegExp(`^this node translates tcp ${client} → ${a.address}:8080 \\(beyond it ${inside}\\)`);
    expect(warnings).toEqual([expect.stringMatching(named)]);
  });

  test('has its addresses in events', async () => {
    const { path, requestSerialize, responseDeserialize } = Runtime.getContainerEvents;
    const client = connectSocket(b.criSocket);
    const events = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, {});
    events.on('error', () => undefined);
    try {
      using cri = new Cri(b.runtimeSocket);
      const [container] = (await cri.listContainers()).filter(({ metadata }) => metadata?.name === 'redis');
      const stopped = (async () => {
        for await (const event of events as AsyncIterable<ContainerEventResponse>) {
          const { containerEventType: type, containerId, podSandboxStatus } = event;
          if (containerId === container?.id && type === ContainerEventType.CONTAINER_STOPPED_EVENT)
            return podSandboxStatus?.network;
        }
        return undefined;
      })();
      await cri.stopContainer(container?.id ?? '', 0);
      expect(await stopped).toMatchObject({ ip: redis.pod.address, additionalIps: [{ ip: ipv6 }] });
    } finally {
      events.cancel();
      client.close();
    }
  });

  test('takes its routes with it when it is removed elsewhere', async () => {
    expect(await routes()).toEqual(routesWhileAway());
    using cri = new Cri(b.runtimeSocket);
    const pods = (await cri.listSandboxes()).filter(({ metadata }) => metadata?.name === 'redis');
    await Promise.all(pods.map(({ id }) => cri.removeSandbox(id)));
    // The last of its proxies goes after the last of its routes.
    const left = () => inNodes('ip neigh show proxy; ls /var/lib/gantry/identities');
    await vi.waitFor(async () => expect([...(await routes()), await left()]).toEqual(['']), SETTLED);
    await vi.waitFor(async () => expect(await inNodes('ls /var/lib/gantry/moved')).toBe(''), SETTLED);
  });

  function routesWhileAway(): string[] {
    const nextHop = (address: string) => (address.includes(':') ? `fd67:${lab.subnet.split('.')[1]}::2` : b.address);
    return [redis.pod.address, ipv6]
      .flatMap((address) => [`a: ${address} via ${nextHop(address)}`, `b: ${address} dev cni0`])
      .sort();
  }
});

describe('a program that is asked to do it', () => {
  const CALLS = '/run/identity-calls';
  /** Fails once. */
  const PROGRAM = `#!/bin/sh
    printf '%s ' "$@" >>${CALLS}
    cat >>${CALLS}
    [ -e /run/asked ] || { touch /run/asked; echo 'not yet' >&2; exit 3; }`;

  beforeAll(async () => {
    const configure = `
      const file = '/etc/gantry/agent.json';
      const fs = require('node:fs');
      const config = JSON.parse(fs.readFileSync(file));
      config.identity = { provider: 'exec', command: ['/usr/local/bin/identity', '--site', 'x'] };
      fs.writeFileSync(file, JSON.stringify(config));`;
    for (const { name } of lab.nodes) {
      await labExec(NAME, name, ['sh', '-c', 'cat >/usr/local/bin/identity; chmod 755 /usr/local/bin/identity'], {
        input: PROGRAM,
      });
      await labExec(NAME, name, ['/opt/gantry/node_modules/.bin/node', '-e', configure]);
    }
    await restartAgents();
  });

  test('hears of a pod that has come and left on both nodes, and again when it has failed', async () => {
    const pod = await runPod(a.runtimeSocket, a.pid, { name: 'told', image: lab.images.redis });
    const [ipv4, ipv6] = await addresses(a, pod.sandbox);
    const { sandboxId } = await migrate(lab, 'a', 'b', 'told');
    const common = {
      version: 1,
      operation: expect.stringMatching(/^[0-9a-f]{16}$/),
      pod: { name: 'told', namespace: 'default', uid: expect.stringMatching(/^[0-9a-f-]{36}$/) },
      addresses: [
        { family: 'inet', address: ipv4, prefixLength: 24 },
        { family: 'inet6', address: ipv6, prefixLength: 64 },
      ],
      netns: expect.stringMatching(/^\/proc\/\d+\/ns\/net$/),
    };
    const there = { ...common, node: 'b', peer: 'a', verb: 'take-over', sandbox: sandboxId };
    const here = { ...common, node: 'a', peer: 'b', verb: 'leave', sandbox: pod.sandbox };
    await vi.waitFor(async () => expect(await calls('b')).toEqual([there, there]), SETTLED);
    await vi.waitFor(async () => expect(await calls('a')).toEqual([here, here]), SETTLED);
    using cri = new Cri(b.runtimeSocket);
    await cri.removeSandbox(sandboxId);
    const withdrawn = { verb: 'withdraw', netns: '' };
    await vi.waitFor(async () => expect(await calls('a')).toEqual([here, here, { ...here, ...withdrawn }]), SETTLED);
    expect(await calls('b')).toEqual([there, there, { ...there, ...withdrawn }]);
  });

  async function calls(node: string): Promise<unknown[]> {
    const { stdout } = await labExec(NAME, node, ['cat', CALLS]);
    return stdout.split('\n').map((line) => {
      const [, verb, text = ''] = /^--site x (\S+) (.*)$/.exec(line) ?? [];
      const input = JSON.parse(text) as { verb: string };
      expect(input.verb).toBe(verb);
      return input;
    });
  }
});

/** Gantry's on both nodes. */
async function routes(): Promise<string[]> {
  const found = await Promise.all(
    lab.nodes.map(async ({ name }) => {
      const script = 'ip -4 route show proto 199; ip -6 route show proto 199';
      const { stdout } = await labExec(NAME, name, ['sh', '-c', script]);
      const lines = stdout.split('\n').filter(Boolean);
      return lines.map((line) => `${name}: ${/^(\S+ (via|dev) \S+)/.exec(line)?.[1]}`);
    }),
  );
  return found.flat().sort();
}

async function inNodes(script: string): Promise<string> {
  const said = await Promise.all(lab.nodes.map(({ name }) => labExec(NAME, name, ['sh', '-c', script])));
  return said.map(({ stdout }) => stdout).join('');
}

async function restartAgents(): Promise<void> {
  await Promise.all(lab.nodes.map(({ name }) => execa(LAB, ['kill', '--name', NAME, name, 'agent'])));
  await vi.waitFor(() => inNodes('test -S /run/gantry/agent.sock && gantry ps >/dev/null'), SETTLED);
}

async function addresses(node: NodeEnvironment, sandbox: string): Promise<string[]> {
  using cri = new Cri(node.runtimeSocket);
  const { pid } = await cri.describeSandbox(sandbox);
  return (await addressesOf(`/proc/${node.pid}/root/proc/${pid}/ns/net`)).map(({ local }) => local);
}
