import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ContainerConfig, ContainerState } from '../../src/gen/cri.ts';
import type { Result } from '../../src/gen/gantry/v1/agent.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { runPod } from '../pods.ts';
import { digest, fill, RedisConnection } from '../redis.ts';
import { execIn } from '../scenario.ts';

const NAME = 't-hook';
let lab: LabEnvironment;
let a: NodeEnvironment;
let cri: Cri;

beforeAll(async () => {
  lab = await labUp({ name: NAME, nodes: 1 });
  a = lab.nodes[0] as NodeEnvironment;
  cri = new Cri(a.runtimeSocket);
});

afterAll(async () => {
  cri?.close();
  await labDown(NAME);
});

async function gantry(...args: string[]): Promise<Result> {
  const { stdout } = await labExec(NAME, 'a', ['gantry', ...args, '-o', 'json']);
  return JSON.parse(stdout) as Result;
}

describe('a container that starts without a ticket', () => {
  test('runs, answers, stops with its own exit code and is removed, as without the hook', async () => {
    const pod = await runPod(a.runtimeSocket, a.pid, {
      name: 'plain',
      image: lab.images.busybox,
      command: ['sh', '-c', 'trap "exit 5" TERM; while :; do sleep 0.1; done'],
    });
    expect((await execIn(a.runtimeSocket, pod.container, ['echo', 'a  b', '*'])).trim()).toBe('a  b *');
    await cri.stopContainer(pod.container, 10);
    const { status } = await cri.containerStatus(pod.container);
    expect(status).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 5 });
    await cri.removeSandbox(pod.sandbox);
  });
});

describe('a container that is restored into a sandbox that exists', () => {
  test('goes on where it was, generation after generation, and CRI sees an ordinary container', async () => {
    const pod = await runPod(a.runtimeSocket, a.pid, {
      name: 'counting',
      image: lab.images.busybox,
      command: ['sh', '-c', 'n=0; while :; do n=$((n+1)); echo $n; echo $n >/state; sleep 0.05; done'],
    });
    let { container } = pod;
    const count = async () => Number(await execIn(a.runtimeSocket, container, ['cat', '/state']));
    await expect.poll(count, { timeout: 10_000 }).toBeGreaterThan(5);

    for (const generation of [1, 2, 3]) {
      const folder = `/var/tmp/generation-${generation}`;
      await gantry('checkpoint', container, '--output', folder);
      expect((await cri.describe(container)).state).toBe(ContainerState.CONTAINER_EXITED);
      // The file came with the writable layer, the number with the memory: it does not begin again.
      const before = Number((await labExec(NAME, 'a', ['tar', '-xOf', `${folder}/rootfs-diff.tar`, './state'])).stdout);
      await cri.removeContainer(container);
      ({ containerId: container } = await gantry('restore', folder, '--sandbox', pod.sandbox));
      await expect.poll(count, { timeout: 10_000 }).toBeGreaterThan(before + 3);
    }

    const { status } = await cri.containerStatus(container);
    expect(status).toMatchObject({ state: ContainerState.CONTAINER_RUNNING, metadata: { name: 'counting' } });
    // Its output goes to the log of the new container.
    const log = () => readFile(`/proc/${a.pid}/root${status?.logPath}`, 'utf8');
    const lines = (await log()).length;
    await expect.poll(async () => (await log()).length, { timeout: 10_000 }).toBeGreaterThan(lines);
    await cri.stopContainer(container, 0);
    expect((await cri.describe(container)).state).toBe(ContainerState.CONTAINER_EXITED);
    await cri.removeContainer(container);
    await cri.removeSandbox(pod.sandbox);
  });

  test('has its memory: a Redis saved while it ran, with a connection open, has the same data', async () => {
    const pod = await runPod(a.runtimeSocket, a.pid, { name: 'redis', image: lab.images.redis });
    const redis = await RedisConnection.open(pod.address);
    await fill(redis, 8);
    const data = await digest(redis);
    await gantry('checkpoint', 'redis', '--output', '/var/tmp/redis', '--leave-running', '--tcp-established');
    // It went on, with its connection, and what it learned since is not in the checkpoint.
    await redis.send('SET', 'data:late', 'x');
    expect(await digest(redis)).not.toBe(data);
    redis.close();
    await cri.stopContainer(pod.container, 0);
    await cri.removeContainer(pod.container);

    await gantry('restore', '/var/tmp/redis', '--sandbox', pod.sandbox);
    using again = await RedisConnection.open(pod.address);
    expect(await digest(again)).toBe(data);
    await cri.removeSandbox(pod.sandbox);
  });
});

describe('a container whose restore fails', () => {
  test('is one whose start failed, with the reason of CRIU; the next one starts as usual', async () => {
    const pod = await runPod(a.runtimeSocket, a.pid, {
      name: 'damaged',
      image: lab.images.busybox,
      command: ['sh', '-c', 'while :; do sleep 1; done'],
    });
    const folder = '/var/tmp/damaged';
    await gantry('checkpoint', pod.container, '--output', folder);
    await cri.removeContainer(pod.container);

    const { config, id: sandbox } = await cri.describeSandbox(pod.sandbox);
    const create = (attempt: number) =>
      cri.createContainer(
        sandbox,
        ContainerConfig.fromPartial({
          metadata: { name: 'damaged', attempt },
          image: { image: lab.images.busybox },
          command: ['sh', '-c', 'while :; do sleep 1; done'],
          linux: {},
        }),
        config,
      );
    const failing = await create(1);
    // What the agent would have written, for images that CRIU refuses.
    const script = [
      `rm ${folder}/checkpoint/core-1.img`,
      `mkdir -p /run/gantry/tickets/${failing} /run/gantry/spent`,
      `ln -s ${folder}/checkpoint /run/gantry/tickets/${failing}/checkpoint`,
      `echo network-lock skip >/run/gantry/tickets/${failing}/criu.conf`,
      `printf '%s\\n' --manage-cgroups-mode ignore >/run/gantry/tickets/${failing}/options`,
    ].join(' && ');
    await labExec(NAME, 'a', ['sh', '-c', script]);
    await expect(cri.startContainer(failing)).rejects.toThrow(
      /restore from checkpoint failed: Unexpected EOF on \(empty-image\)/,
    );
    const { status } = await cri.containerStatus(failing);
    expect(status).toMatchObject({ state: ContainerState.CONTAINER_EXITED, reason: 'StartError' });
    await expect(cri.startContainer(failing)).rejects.toThrow(/not in created state|EXITED/i);
    await cri.stopContainer(failing, 0);
    await cri.removeContainer(failing);
    await expect(cri.containerStatus(failing)).rejects.toMatchObject({ reason: 'NOT_FOUND' });

    const next = await create(2);
    await cri.startContainer(next);
    expect((await execIn(a.runtimeSocket, next, ['echo', 'here'])).trim()).toBe('here');
    await cri.removeSandbox(pod.sandbox);
  });
});
