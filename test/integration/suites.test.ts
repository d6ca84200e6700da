import { afterEach, expect, test } from 'vitest';
import { Cri } from '../../src/runtime/cri.ts';
import { labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { runPod } from '../pods.ts';
import { RedisConnection } from '../redis.ts';

const NAME = 't-suites';

afterEach(() => labDown(NAME));

// The first time, their roots are made: half a minute each.
test.each([
  ['trixie', '1.7'],
  ['bookworm', '1.6'],
] as const)(
  'a node of %s, with containerd %s, runs a pod through the relay and the hook, and refuses to save it',
  async (suite, containerd) => {
    const lab = await labUp({ name: NAME, nodes: 1, suite });
    const node = lab.nodes[0] as NodeEnvironment;
    using relay = new Cri(node.criSocket);
    expect((await relay.version()).runtimeVersion).toContain(containerd);

    const pod = await runPod(node.criSocket, node.pid, { name: 'redis', image: lab.images.redis });
    using redis = await RedisConnection.open(pod.address);
    expect(await redis.send('PING')).toBe('PONG');
    const { stdout } = await labExec(NAME, 'a', ['gantry', 'ps', '-o', 'json']);
    expect(JSON.parse(stdout)).toMatchObject([
      { id: pod.sandbox, state: 'ready', containers: [{ id: pod.container, name: 'redis', state: 'running' }] },
    ]);
    // Their verbose status tells the configuration that a migration needs, too.
    const { config, sandbox } = await relay.describe(pod.container);
    expect(config.envs.map(({ key, value }) => `${key}=${value}`)).toEqual(['GANTRY_TEST=a value with spaces']);
    expect(sandbox.config.hostname).toBe('redis');
    // What they have of CRIU and runc is too old for this kernel: they say so, and the program goes on.
    const check = await labExec(NAME, 'a', ['gantry', 'check', 'redis', '--window', '0', '-o', 'json']);
    expect(JSON.parse(check.stdout)).toMatchObject({
      verdict: 'cold',
      findings: expect.arrayContaining([expect.objectContaining({ id: 'criu-too-old', severity: 'cold' })]),
    });
    const checkpoint = ['gantry', 'checkpoint', 'redis', '--archive', '/var/tmp/redis.tar', '--tcp', 'established'];
    const { exitCode, stderr } = await labExec(NAME, 'a', checkpoint, { reject: false });
    expect(exitCode).toBeGreaterThan(0);
    // With cgroup v1 runc is the first to be too old, with v2 it is CRIU.
    expect(stderr).toMatch(/runc 1\.1\.\S+ would save|CRIU could not dump/);
    expect(await redis.send('PING')).toBe('PONG');
    await relay.removeSandbox(pod.sandbox);
  },
);
