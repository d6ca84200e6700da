import { randomUUID } from 'node:crypto';
import type { Client, MethodDefinition, ServiceError } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  ContainerConfig,
  ContainerState,
  ImageServiceService as Images,
  PodSandboxConfig,
  RuntimeServiceService as Runtime,
} from '../../src/gen/cri.ts';
import { Bench } from '../../src/proxy/relay.fixture.ts';
import { type LabEnvironment, labDown, labUp } from '../lab.ts';

// containerd 1.6 has both versions: the relay is told to use the older one.
const LAB_NAME = 't-relay-v1alpha2';
const sandboxConfig = PodSandboxConfig.fromPartial({
  metadata: { name: 'older', namespace: 'default', uid: randomUUID(), attempt: 0 },
  hostname: 'older',
  logDirectory: '/var/log/pods/older',
});

let lab: LabEnvironment;
let bench: Bench;
let relayed: Client;
let direct: Client;

beforeAll(async () => {
  lab = await labUp({ name: LAB_NAME, nodes: 1, suite: 'bookworm', services: ['containerd'] });
  const upstream = lab.nodes[0]?.runtimeSocket ?? '';
  bench = await Bench.make();
  await bench.relay({ upstream, upstreamWaitMs: 20_000, runtimeApi: 'v1alpha2' });
  relayed = bench.grpcClient();
  direct = bench.grpcClient(upstream);
});

afterAll(async () => {
  await bench?.[Symbol.asyncDispose]();
  await labDown(LAB_NAME);
});

test('Version is that of a runtime of v1, and otherwise what the runtime says', async () => {
  const [through, without] = await Promise.all(
    [relayed, direct].map((one) => call(one, Runtime.version, { version: '' })),
  );
  expect(through).toEqual(without);
  expect(through).toMatchObject({ runtimeName: 'containerd', runtimeApiVersion: 'v1' });
});

test('a pod lives and ends', async () => {
  const { image } = await call(relayed, Images.imageStatus, {
    image: { image: lab.images.busybox, annotations: {}, userSpecifiedImage: '', imageRef: '', runtimeHandler: '' },
    verbose: false,
  });
  expect(image?.id).toMatch(/^sha256:/);
  const { podSandboxId } = await call(relayed, Runtime.runPodSandbox, { config: sandboxConfig, runtimeHandler: '' });
  const config = ContainerConfig.fromPartial({
    metadata: { name: 'main', attempt: 0 },
    image: { image: lab.images.busybox },
    command: ['sleep', '1000'],
    logPath: 'main.log',
  });
  const { containerId } = await call(relayed, Runtime.createContainer, { podSandboxId, config, sandboxConfig });
  await call(relayed, Runtime.startContainer, { containerId });
  const { status } = await call(relayed, Runtime.containerStatus, { containerId, verbose: false });
  expect(status).toMatchObject({ id: containerId, state: ContainerState.CONTAINER_RUNNING });
  const { containers } = await call(relayed, Runtime.listContainers, { filter: undefined });
  expect(containers).toMatchObject([{ id: containerId, podSandboxId }]);
  const { stdout, exitCode } = await call(relayed, Runtime.execSync, {
    containerId,
    cmd: ['sh', '-c', 'hostname; exit 3'],
    timeout: 10n,
  });
  expect([String(stdout), exitCode]).toEqual(['older\n', 3]);
  await call(relayed, Runtime.stopContainer, { containerId, timeout: 0n });
  await call(relayed, Runtime.removeContainer, { containerId });
  await call(relayed, Runtime.stopPodSandbox, { podSandboxId });
  await call(relayed, Runtime.removePodSandbox, { podSandboxId });
  expect((await call(relayed, Runtime.listPodSandbox, { filter: undefined })).items).toEqual([]);
});

test('what the older version lacks is UNIMPLEMENTED', async () => {
  const error = await call(relayed, Runtime.runtimeConfig, {}).catch((reason: ServiceError) => reason);
  expect(error).toMatchObject({ code: 12, details: expect.stringContaining('v1alpha2') });
});

function call<Q, A>(client: Client, definition: MethodDefinition<Q, A>, request: Q): Promise<A> {
  const { path, requestSerialize, responseDeserialize } = definition;
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      { deadline: Date.now() + 60_000 },
      (error, answer) => (answer === undefined ? reject(error) : resolve(answer)),
    );
  });
}
