import { randomUUID } from 'node:crypto';
import { copyFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Client, type MethodDefinition, type ServiceError, status } from '@grpc/grpc-js';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { containerdConfig } from '../../hack/nodes/containerd-config.ts';
import { suiteNamed } from '../../hack/nodes/suites.ts';
import { PodCheckpoint, PodRestore, PodRestored } from '../../src/gen/cri/decoded.ts';
import {
  CheckpointContainerRequest,
  ContainerConfig,
  ContainerState,
  NamespaceMode,
  PodSandboxConfig,
  RuntimeServiceService as Runtime,
} from '../../src/gen/cri.ts';
import type { Result } from '../../src/gen/gantry/v1/agent.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { connectSocket, unary } from '../../src/runtime/grpc.ts';
import { leftoversOn } from '../e2e/leftovers.ts';
import { LAB, type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { nodeNamed } from '../scenario.ts';
import { operate } from '../surgery.ts';

const NAME = 't-cri-checkpoint';
const FOLDER = '/var/tmp/checkpoints';
const LONG_MS = 60_000;

/** Counts, and has a name that only its memory knows. */
const COUNT = [
  'sh',
  '-c',
  'me=$(cat /proc/sys/kernel/random/uuid); while :; do i=$((i+1)); echo $me $i >/count; sleep 0.1; done',
];

function method<Request, Response>(
  name: string,
  request: { encode(message: Request): { finish(): Uint8Array }; decode(bytes: Uint8Array): Request },
  response: { encode(message: Response): { finish(): Uint8Array }; decode(bytes: Uint8Array): Response },
): MethodDefinition<Request, Response> {
  return {
    path: `/runtime.v1.RuntimeService/${name}`,
    requestStream: false,
    responseStream: false,
    requestSerialize: (message) => Buffer.from(request.encode(message).finish()),
    requestDeserialize: (bytes) => request.decode(bytes),
    responseSerialize: (message) => Buffer.from(response.encode(message).finish()),
    responseDeserialize: (bytes) => response.decode(bytes),
  };
}

const NOTHING = { encode: () => ({ finish: () => new Uint8Array() }), decode: () => undefined };
const CHECKPOINT_POD = method('CheckpointPod', PodCheckpoint, NOTHING);
const RESTORE_POD = method('RestorePod', PodRestore, PodRestored);

let lab: LabEnvironment;
let node: NodeEnvironment;
/** The runtime, and the relay in front of it. */
let cri: Cri;
let relayed: Cri;
let client: Client;

async function up(suite: 'forky' | 'bookworm'): Promise<void> {
  lab = await labUp({ name: NAME, nodes: 1, suite });
  node = nodeNamed(lab, 'a');
  cri = new Cri(node.runtimeSocket);
  relayed = new Cri(node.criSocket);
  client = connectSocket(node.criSocket);
}

async function down(): Promise<void> {
  cri?.close();
  relayed?.close();
  client?.close();
  await labDown(NAME);
}

const shell = async (script: string) => (await labExec(NAME, 'a', ['sh', '-c', script])).stdout;
const gantry = async (...args: string[]) => JSON.parse(await shell(`gantry ${args.join(' ')} -o json`)) as Result;

const kill = (service: string) => execa(LAB, ['kill', 'a', service, '--name', NAME], { stdin: 'ignore' });
const killed = async (service: 'agent' | 'proxy') => {
  await kill(service);
  const answers = (): Promise<unknown> => (service === 'proxy' ? relayed.version() : shell('gantry ps >/dev/null'));
  await vi.waitFor(answers, { timeout: 10_000 });
};
async function configure(settings: string): Promise<void> {
  await writeFile(`/proc/${node.pid}/root/etc/gantry/config.yaml`, `proxy:\n${settings}\n`);
  await killed('proxy');
}

interface Pod {
  readonly sandbox: string;
  readonly sandboxConfig: PodSandboxConfig;
  readonly configs: readonly ContainerConfig[];
  /** In the order of their configurations. */
  readonly containers: readonly string[];
}

function sandboxConfigOf(name: string): PodSandboxConfig {
  const uid = randomUUID();
  return PodSandboxConfig.fromPartial({
    metadata: { name, namespace: 'default', uid, attempt: 0 },
    hostname: name,
    logDirectory: `/var/log/pods/default_${name}_${uid}`,
    labels: { 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.uid': uid },
    linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
  });
}

const configOf = (name: string, command = COUNT) =>
  ContainerConfig.fromPartial({
    metadata: { name, attempt: 0 },
    image: { image: lab.images.busybox },
    command,
    envs: [{ key: 'WHO', value: Buffer.from(name) }],
    labels: { 'io.kubernetes.container.name': name },
    logPath: `${name}.log`,
    linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
  });

async function runPod(name: string, ...names: string[]): Promise<Pod> {
  const sandboxConfig = sandboxConfigOf(name);
  const sandbox = await relayed.runSandbox(sandboxConfig, '');
  const configs = names.map((one) => configOf(one));
  const containers: string[] = [];
  for (const config of configs) {
    const id = await relayed.createContainer(sandbox, config, sandboxConfig);
    await relayed.startContainer(id);
    containers.push(id);
  }
  for (const id of containers) await counts(id);
  return { sandbox, sandboxConfig, configs, containers };
}

const checkpointContainer = (containerId: string, location: string, timeoutMs = LONG_MS) =>
  unary(client, Runtime.checkpointContainer, CheckpointContainerRequest.fromPartial({ containerId, location }), {
    timeoutMs,
  });
const checkpointPod = (request: Parameters<typeof PodCheckpoint.fromPartial>[0], timeoutMs = LONG_MS) =>
  unary(client, CHECKPOINT_POD, PodCheckpoint.fromPartial(request), { timeoutMs });

/** A pod of another name, from a checkpoint of this one. */
async function restorePod(
  { configs }: Pod,
  path: string,
  { timeoutMs = LONG_MS, sandboxConfig = sandboxConfigOf('restored') } = {},
): Promise<Pod> {
  await shell(`mkdir -p ${sandboxConfig.logDirectory}`);
  const request = PodRestore.fromPartial({
    checkpointPath: path,
    config: Buffer.from(PodSandboxConfig.encode(sandboxConfig).finish()),
    containerConfigs: configs.map((config) => Buffer.from(ContainerConfig.encode(config).finish())),
  });
  const { podSandboxId, restoredContainers } = await unary(client, RESTORE_POD, request, { timeoutMs });
  const byName = new Map(restoredContainers.map(({ name, containerId }) => [name, containerId]));
  const containers = configs.map(({ metadata }) => byName.get(metadata?.name ?? '') ?? '');
  return { sandbox: podSandboxId, sandboxConfig, configs, containers };
}

/** Who counts in a container, and how far it has come. */
async function counted(container: string): Promise<{ who: string; count: number }> {
  const { pid } = await cri.describe(container);
  const [who = '', count = '0'] = (await shell(`cat /proc/${pid}/root/count`)).split(' ');
  return { who, count: Number(count) };
}

/** The same, once it has counted on. */
async function counts(container: string): Promise<{ who: string; count: number }> {
  const soon = { timeout: 20_000, interval: 100 };
  const before = await vi.waitFor(() => counted(container), soon);
  return vi.waitFor(async () => {
    const now = await counted(container);
    expect(now.count).toBeGreaterThan(before.count);
    return now;
  }, soon);
}

const states = async ({ containers }: Pod) =>
  Promise.all(containers.map(async (id) => (await cri.containerStatus(id)).status?.state));
const sandboxes = async () => (await cri.listSandboxes()).map(({ id }) => id).sort();
const prepared = () => readdir(`/proc/${node.pid}/root/var/lib/gantry/prepared`).catch(() => []);

/** Everything that an operation may leave, but for pods. */
async function expectNothingLeft(): Promise<void> {
  await vi.waitFor(
    async () => {
      const log = await shell('cat /var/log/gantry-lab/agent.log');
      const count = (event: RegExp) => log.match(event)?.length ?? 0;
      expect(count(/"operation-(done|failed)"/g)).toBe(count(/"operation-started"/g));
    },
    { timeout: 20_000, interval: 100 },
  );
  await vi.waitFor(async () => expect([...(await leftoversOn(lab, node)), ...(await prepared())]).toEqual([]), {
    timeout: 10_000,
    interval: 200,
  });
}

const failsWith = (code: number, details: RegExp) =>
  expect.objectContaining({ code, details: expect.stringMatching(details) });
const failure = (call: Promise<unknown>): Promise<ServiceError> =>
  call.then(
    () => expect.unreachable('it has succeeded'),
    (error: ServiceError) => error,
  );

/** What the runtime itself says. */
async function expectOwn(code: number, containerId: string): Promise<void> {
  const direct = connectSocket(node.runtimeSocket);
  try {
    const request = CheckpointContainerRequest.fromPartial({ containerId, location: `${FOLDER}/own.tar` });
    const own = unary(direct, Runtime.checkpointContainer, request, { timeoutMs: LONG_MS });
    expect(await failure(own)).toMatchObject({ code });
  } finally {
    direct.close();
  }
}

/** Of everything but these sandboxes. */
async function clear(...kept: string[]): Promise<void> {
  const others = (await sandboxes()).filter((id) => !kept.includes(id));
  await Promise.all(others.map((id) => cri.removeSandbox(id)));
  if (kept.length === 0) await shell(`rm -rf ${FOLDER}`);
  await expectNothingLeft();
}

describe('with a containerd that has CheckpointContainer of its own', () => {
  beforeAll(() => up('forky'));
  afterAll(down);
  beforeEach(() => shell(`mkdir -p ${FOLDER}/pod`));

  describe('CheckpointContainer', () => {
    beforeEach(() => configure('  checkpoints: gantry'));
    afterEach(() => clear());
    afterAll(() => configure('  checkpoints: auto'));

    test("is the runtime's, unless Gantry is configured to replace it", async () => {
      const { containers } = await runPod('own', 'main');
      const [container = ''] = containers;
      await checkpointContainer(container, `${FOLDER}/ours.tar`);
      await configure('  checkpoints: auto');
      await checkpointContainer(container, `${FOLDER}/own.tar`);
      const hasManifest = (name: string) => shell(`tar -tf ${FOLDER}/${name} | grep -c '^gantry.json$' || :`);
      expect([await hasManifest('own.tar'), await hasManifest('ours.tar')]).toEqual(['0', '1']);
      expect(await shell(`stat -c %a ${FOLDER}/ours.tar; ls ${FOLDER}`)).toBe('600\nours.tar\nown.tar\npod');
      const { who, count } = await counts(container);
      const { containerId } = await gantry('restore', `${FOLDER}/ours.tar`, '--new-sandbox copy');
      const again = await counts(containerId);
      expect(again.who).toBe(who);
      // It goes on where it was, which is before where the first one is by now.
      expect(again.count).toBeGreaterThan(1);
      expect(count).toBeGreaterThan(1);
    });

    test('finds who is in a slot', async () => {
      const { containers } = await runPod('slot', 'main');
      const [first = ''] = containers;
      const { who } = await counts(first);
      await operate(node.agentSocket, 'swap', {
        target: first,
        configJson: JSON.stringify({ command: COUNT }),
        graceSeconds: 0,
      });
      const [real] = (await cri.listContainers()).filter(({ state }) => state === ContainerState.CONTAINER_RUNNING);
      await checkpointContainer(first, `${FOLDER}/slot.tar`);
      const manifest = JSON.parse(await shell(`tar -xOf ${FOLDER}/slot.tar gantry.json`)) as {
        container: { id: string };
      };
      expect([manifest.container.id, real?.id === first]).toEqual([real?.id, false]);
      expect((await counts(real?.id ?? '')).who).not.toBe(who);
    });

    test('leaves nothing when its time is over, or the container is none that runs', async () => {
      const { containers } = await runPod('late', 'main');
      const [container = ''] = containers;
      const late = checkpointContainer(container, `${FOLDER}/late.tar`, 50);
      expect(await failure(late)).toMatchObject({ code: status.DEADLINE_EXCEEDED });
      await expectNothingLeft();
      expect(await shell(`ls ${FOLDER}`)).toBe('pod');
      await counts(container);
      const unknown = checkpointContainer('f'.repeat(64), `${FOLDER}/none.tar`);
      expect(await failure(unknown)).toEqual(failsWith(status.NOT_FOUND, /f{64}/));
      await cri.stopContainer(container, 0);
      const stopped = checkpointContainer(container, `${FOLDER}/none.tar`);
      expect(await failure(stopped)).toEqual(failsWith(status.FAILED_PRECONDITION, /not running/));
      expect(await shell(`ls ${FOLDER}`)).toBe('pod');
    });
  });

  test('CheckpointPod is refused what it cannot do, and leaves nothing', async () => {
    const { sandbox, containers } = await runPod('refused', 'main');
    const other = await runPod('other', 'main');
    const path = `${FOLDER}/pod`;
    const whole = { podSandboxId: sandbox, outputPath: path, containerIds: [...containers] };
    const refused = async (change: object, timeoutMs?: number) =>
      failure(checkpointPod({ ...whole, ...change }, timeoutMs));
    expect(await refused({ outputPath: FOLDER })).toEqual(failsWith(status.FAILED_PRECONDITION, /not empty/));
    expect(await refused({ podSandboxId: 'f'.repeat(64) })).toEqual(failsWith(status.NOT_FOUND, /sandbox/));
    expect(await refused({ containerIds: other.containers })).toEqual(
      failsWith(status.INVALID_ARGUMENT, /not in sandbox/),
    );
    expect(await refused({ containerIds: [...containers, ...containers] })).toEqual(
      failsWith(status.INVALID_ARGUMENT, /twice/),
    );
    expect(await refused({}, 50)).toMatchObject({ code: status.DEADLINE_EXCEEDED });
    await expectNothingLeft();
    expect(await shell(`ls ${path}`)).toBe('');
    await counts(containers[0] ?? '');
    await clear();
  });

  describe('of a pod with two containers, RestorePod', () => {
    const path = `${FOLDER}/pod`;
    let pod: Pod;
    let before: { who: string; count: number }[];

    beforeAll(async () => {
      await shell(`mkdir -p ${path}`);
      pod = await runPod('two', 'one', 'other');
      await checkpointPod({ podSandboxId: pod.sandbox, outputPath: path, containerIds: [...pod.containers] });
      before = await Promise.all(pod.containers.map(counts));
      expect(await shell(`stat -c '%n %a' ${path}/*`)).toBe(`${path}/pod.tar 600`);
    });
    afterEach(() => clear(pod.sandbox));
    afterAll(() => clear());

    const expectGoesOn = async ({ containers }: Pod) => {
      const after = await Promise.all(containers.map(counts));
      expect(after.map(({ who }) => who)).toEqual(before.map(({ who }) => who));
      expect(Math.min(...after.map(({ count }) => count))).toBeGreaterThan(1);
    };

    test('creates them, and StartContainer lets each go on, also with another agent and another relay', async () => {
      const restored = await restorePod(pod, path);
      expect(await states(restored)).toEqual([ContainerState.CONTAINER_CREATED, ContainerState.CONTAINER_CREATED]);
      await killed('agent');
      await killed('proxy');
      expect((await prepared()).length).toBe(2);
      // In another order than they were made in.
      for (const id of restored.containers.toReversed()) await relayed.startContainer(id);
      await expectGoesOn(restored);
      await expectNothingLeft();
      await expect(relayed.startContainer(restored.containers[0] ?? '')).rejects.toThrow(/RUNNING/);
      // The first ones have gone on all the time.
      await Promise.all(pod.containers.map(counts));
      // What was restored can be saved, and restored, again.
      await shell(`mkdir ${FOLDER}/again`);
      const { sandbox, containers } = restored;
      await checkpointPod({ podSandboxId: sandbox, outputPath: `${FOLDER}/again`, containerIds: [...containers] });
      const again = await restorePod(restored, `${FOLDER}/again`, { sandboxConfig: sandboxConfigOf('again') });
      for (const id of again.containers) await relayed.startContainer(id);
      await expectGoesOn(again);
    });

    test('leaves nothing of one that is removed before it has started', async () => {
      const known = await sandboxes();
      const whole = await restorePod(pod, path);
      await relayed.removeSandbox(whole.sandbox);
      expect(await sandboxes()).toEqual(known);
      await expectNothingLeft();
      // Of one container, likewise; the other can still be started.
      const half = await restorePod(pod, path);
      await relayed.removeContainer(half.containers[0] ?? '');
      await relayed.startContainer(half.containers[1] ?? '');
      expect((await counts(half.containers[1] ?? '')).who).toBe(before[1]?.who);
      await expectNothingLeft();
    });

    test('never starts afresh: neither behind the back of the relay, nor without an agent', async () => {
      const restored = await restorePod(pod, path);
      const [one = '', other = ''] = restored.containers;
      await expect(cri.startContainer(one)).rejects.toThrow(/restore|criu|checkpoint/i);
      expect(await states(restored)).toEqual([ContainerState.CONTAINER_EXITED, ContainerState.CONTAINER_CREATED]);
      await configure('  agentSocket: /run/none.sock');
      try {
        const start = unary(client, Runtime.startContainer, { containerId: other }, { timeoutMs: LONG_MS });
        expect(await failure(start)).toEqual(failsWith(status.UNAVAILABLE, /is it running/));
        expect(await states(restored)).toEqual([ContainerState.CONTAINER_EXITED, ContainerState.CONTAINER_CREATED]);
        const { sandbox, containers } = pod;
        await shell(`mkdir ${FOLDER}/empty`);
        const save = checkpointPod({
          podSandboxId: sandbox,
          outputPath: `${FOLDER}/empty`,
          containerIds: [...containers],
        });
        expect(await failure(save)).toEqual(failsWith(status.UNAVAILABLE, /is it running/));
        expect(await failure(restorePod(pod, path))).toEqual(failsWith(status.UNAVAILABLE, /is it running/));
      } finally {
        await configure('  checkpoints: auto');
      }
      await relayed.startContainer(other);
      expect((await counts(other)).who).toBe(before[1]?.who);
    });

    test('leaves nothing when it fails: another configuration, a container too few, no time, no checkpoint', async () => {
      const known = await sandboxes();
      const [one, other] = pod.configs as [ContainerConfig, ContainerConfig];
      const refused = (configs: ContainerConfig[], from = path, timeoutMs?: number) =>
        failure(restorePod({ ...pod, configs }, from, timeoutMs === undefined ? {} : { timeoutMs }));
      expect(await refused([one])).toEqual(failsWith(status.INVALID_ARGUMENT, /containers one, other/));
      expect(await refused([one, { ...other, command: ['sh'] }])).toEqual(
        failsWith(status.FAILED_PRECONDITION, /another command/),
      );
      expect(await refused([one, other], FOLDER)).toEqual(failsWith(status.NOT_FOUND, /pod\.tar/));
      expect(await refused([one, other], path, 100)).toMatchObject({ code: status.DEADLINE_EXCEEDED });
      await expectNothingLeft();
      expect(await sandboxes()).toEqual(known);
      const again = failure(restorePod(pod, path, { sandboxConfig: pod.sandboxConfig }));
      expect(await again).toEqual(failsWith(status.ALREADY_EXISTS, /has a sandbox already/));
      expect(await sandboxes()).toEqual(known);
      await Promise.all(pod.containers.map(counts));
    });
  });
});

describe.each([
  ['1.6', 'bookworm'] as const,
  ...(process.env.GANTRY_ALL_MOMENTS === '1' ? [['1.7', 'trixie'] as const] : []),
])('with containerd %s, which has none of these calls, and tools of today', (version, suite) => {
  beforeAll(async () => {
    await execa(LAB, ['root', '--suite', suite], { stdin: 'ignore' });
    await up('forky');
    const root = `/proc/${node.pid}/root`;
    for (const name of ['containerd', 'containerd-shim-runc-v2'])
      await copyFile(join(LAB, `../../.lab/root/${suite}/usr/bin/${name}`), `${root}/usr/local/bin/${name}`);
    const runc = { name: 'runc', binary: '/usr/local/lib/gantry/gantry-runc' };
    await writeFile(`${root}/etc/containerd/config.toml`, containerdConfig(suiteNamed(suite), [runc]));
    await kill('containerd');
    await vi.waitFor(async () => expect((await cri.version()).runtimeVersion).toMatch(`${version}.`), {
      timeout: 20_000,
    });
  }, 600_000);
  afterAll(down);
  beforeEach(() => shell(`mkdir -p ${FOLDER}/pod`));
  afterEach(() => clear());

  test('all of them are served', async () => {
    const pod = await runPod('two', 'one', 'other');
    const { sandbox, containers } = pod;
    await expectOwn(status.UNIMPLEMENTED, containers[0] ?? '');
    await checkpointContainer(containers[0] ?? '', `${FOLDER}/ours.tar`);
    await checkpointPod({ podSandboxId: sandbox, outputPath: `${FOLDER}/pod`, containerIds: [...containers] });
    const before = await Promise.all(containers.map(counts));
    const { containerId } = await gantry('restore', `${FOLDER}/ours.tar`, '--new-sandbox copy');
    expect((await counts(containerId)).who).toBe(before[0]?.who);
    const restored = await restorePod(pod, `${FOLDER}/pod`);
    expect(await states(restored)).toEqual([ContainerState.CONTAINER_CREATED, ContainerState.CONTAINER_CREATED]);
    for (const id of restored.containers) await relayed.startContainer(id);
    const after = await Promise.all(restored.containers.map(counts));
    expect(after.map(({ who }) => who)).toEqual(before.map(({ who }) => who));
    const unused = await restorePod(pod, `${FOLDER}/pod`, { sandboxConfig: sandboxConfigOf('unused') });
    await relayed.removeSandbox(unused.sandbox);
    await expectNothingLeft();
  });
});

describe('with runc and CRIU of that time, too,', () => {
  beforeAll(() => up('bookworm'));
  afterAll(down);
  beforeEach(() => shell(`mkdir -p ${FOLDER}`));
  afterEach(() => clear());

  test('CheckpointContainer through the relay is what CRIU makes of it there, and the container goes on', async () => {
    const { containers } = await runPod('old', 'main');
    const [container = ''] = containers;
    await expectOwn(status.UNIMPLEMENTED, container);
    // They are older than most kernels that this runs on, and cannot do all that is asked of them: what, is said.
    const outcome = await checkpointContainer(container, `${FOLDER}/ours.tar`).then(
      () => undefined,
      (error: ServiceError) => error,
    );
    if (outcome === undefined) expect(await shell(`ls ${FOLDER}`)).toBe('ours.tar');
    else {
      expect([status.ABORTED, status.FAILED_PRECONDITION]).toContain(outcome.code);
      expect(outcome.details).toMatch(/^CRIU could not dump .*: \S|^runc 1\.1/);
      expect(await shell(`ls ${FOLDER}`)).toBe('');
      console.log(`bookworm: ${outcome.details}`);
    }
    await delay(100);
    await counts(container);
  });
});
