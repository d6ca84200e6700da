import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { Client, ClientReadableStream, MethodDefinition, ServiceError } from '@grpc/grpc-js';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import {
  ContainerConfig,
  type ContainerEventResponse,
  ContainerEventType,
  ContainerState,
  ImageServiceService as Images,
  PodSandboxConfig,
  RuntimeServiceService as Runtime,
} from '../../src/gen/cri.ts';
import { Bench, message } from '../../src/proxy/relay.fixture.ts';
import { LAB, type LabEnvironment, labDown, labUp } from '../lab.ts';

const LAB_NAME = 't-relay';
const VERSION = '/runtime.v1.RuntimeService/Version';
const CONTAINERD_VERSION = '/containerd.services.version.v1.Version/Version';
const sandboxConfig = PodSandboxConfig.fromPartial({
  metadata: { name: 'relayed', namespace: 'default', uid: randomUUID(), attempt: 0 },
  hostname: 'relayed',
  logDirectory: '/var/log/pods/relayed',
  labels: { app: 'relayed' }, // one only: Go encodes a map in another order each time
});

let lab: LabEnvironment;
let runtimeSocket: string;
let bench: Bench;
let relayed: Client;
let direct: Client;

beforeAll(async () => {
  lab = await labUp({ name: LAB_NAME, nodes: 1, services: ['containerd'] });
  runtimeSocket = lab.nodes[0]?.runtimeSocket ?? '';
  bench = await Bench.make();
  // As `gantry proxy` does: a runtime that is starting is waited for, not answered for.
  await bench.relay({ upstream: runtimeSocket, upstreamWaitMs: 20_000, runtimeApi: 'auto' });
  relayed = bench.grpcClient();
  direct = bench.grpcClient(runtimeSocket);
});

afterAll(async () => {
  await bench?.[Symbol.asyncDispose]();
  await labDown(LAB_NAME);
});

test('Version, Status and ListContainers answer through the relay', async () => {
  const version = await call(relayed, Runtime.version, { version: '' });
  expect(version).toMatchObject({ version: '0.1.0', runtimeName: 'containerd', runtimeApiVersion: 'v1' });
  const { status } = await call(relayed, Runtime.status, { verbose: false });
  expect(status?.conditions.find(({ type }) => type === 'RuntimeReady')?.status).toBe(true);
  const { containers } = await call(relayed, Runtime.listContainers, { filter: undefined });
  expect(containers).toEqual([]);
});

describe('the life cycle of a pod', () => {
  let events: ClientReadableStream<ContainerEventResponse>;
  const seen: ContainerEventResponse[] = [];
  let podSandboxId: string;
  let containerId: string;

  beforeAll(() => {
    const { path, requestSerialize, responseDeserialize } = Runtime.getContainerEvents;
    events = relayed.makeServerStreamRequest(path, requestSerialize, responseDeserialize, {});
    events.on('error', () => undefined);
    events.on('data', (event: ContainerEventResponse) => seen.push(event));
  });

  afterAll(() => events.cancel());

  test('a sandbox and a container start', async () => {
    ({ podSandboxId } = await call(relayed, Runtime.runPodSandbox, { config: sandboxConfig, runtimeHandler: '' }));
    const config = ContainerConfig.fromPartial({
      metadata: { name: 'main', attempt: 0 },
      image: { image: lab.images.busybox },
      command: ['sleep', '1000'],
      logPath: 'main.log',
    });
    ({ containerId } = await call(relayed, Runtime.createContainer, { podSandboxId, config, sandboxConfig }));
    await call(relayed, Runtime.startContainer, { containerId });
  });

  test('ExecSync returns output, errors and exit code', async () => {
    const command = ['sh', '-c', 'hostname; echo oops >&2; exit 3'];
    const result = await call(relayed, Runtime.execSync, { containerId, cmd: command, timeout: 10n });
    expect([String(result.stdout), String(result.stderr), result.exitCode]).toEqual(['relayed\n', 'oops\n', 3]);
  });

  test('a large answer arrives whole', async () => {
    const command = ['sh', '-c', 'head -c 8388608 /dev/zero'];
    const { stdout } = await call(relayed, Runtime.execSync, { containerId, cmd: command, timeout: 30n });
    expect(stdout.length).toBe(8 * 1024 * 1024);
  });

  test('ContainerStatus is there in its verbose form', async () => {
    const { status, info } = await call(relayed, Runtime.containerStatus, { containerId, verbose: true });
    expect(status?.state).toBe(ContainerState.CONTAINER_RUNNING);
    expect(JSON.parse(String(info.info))).toMatchObject({ sandboxID: podSandboxId, pid: expect.any(Number) });
  });

  test('answers are the same bytes as without the relay', async () => {
    const image = {
      image: lab.images.busybox,
      annotations: {},
      userSpecifiedImage: '',
      imageRef: '',
      runtimeHandler: '',
    };
    const calls: [string, Buffer][] = [
      encoded(Runtime.version, { version: '' }),
      encoded(Runtime.status, { verbose: false }),
      encoded(Runtime.listContainers, { filter: undefined }),
      encoded(Runtime.listPodSandbox, { filter: undefined }),
      encoded(Runtime.containerStatus, { containerId, verbose: true }),
      encoded(Runtime.podSandboxStatus, { podSandboxId, verbose: false }),
      encoded(Runtime.runtimeConfig, {}),
      encoded(Images.imageStatus, { image, verbose: false }),
    ];
    for (const [path, request] of calls) {
      const [through, without] = await Promise.all([bytes(relayed, path, request), bytes(direct, path, request)]);
      expect(through.length, path).toBeGreaterThan(0);
      // PodSandboxStatus carries the time of its making.
      if (path.endsWith('/PodSandboxStatus')) expect(through.length).toBe(without.length);
      else expect(through.equals(without), path).toBe(true);
    }
  });

  test('errors are the same as without the relay', async () => {
    const request = { containerId: 'no-such-container', verbose: false };
    const errors = await Promise.all(
      [relayed, direct].map((client) => failure(call(client, Runtime.containerStatus, request))),
    );
    expect(errors[0]).toMatchObject({ code: 5, details: errors[1]?.details });
    expect(errors[0]?.metadata.getMap()).toEqual(errors[1]?.metadata.getMap());
  });

  test('hundreds of streams are open at once', async () => {
    const { path, requestSerialize, responseDeserialize } = Runtime.getContainerEvents;
    const streams = Array.from({ length: 300 }, () => {
      const stream = relayed.makeServerStreamRequest(path, requestSerialize, responseDeserialize, {});
      stream.on('error', () => undefined);
      return stream;
    });
    await call(relayed, Runtime.version, { version: '' }, 5000);
    for (const stream of streams) stream.cancel();
  });

  test('stopping and removing ends it', async () => {
    await call(relayed, Runtime.stopContainer, { containerId, timeout: 0n });
    await call(relayed, Runtime.removeContainer, { containerId });
    await call(relayed, Runtime.stopPodSandbox, { podSandboxId });
    await call(relayed, Runtime.removePodSandbox, { podSandboxId });
    const { items } = await call(relayed, Runtime.listPodSandbox, { filter: undefined });
    expect(items).toEqual([]);
  });

  test('the event stream told of all of it', async () => {
    const { CONTAINER_CREATED_EVENT, CONTAINER_STARTED_EVENT, CONTAINER_STOPPED_EVENT, CONTAINER_DELETED_EVENT } =
      ContainerEventType;
    await vi.waitFor(() => {
      const types = seen.filter((event) => event.containerId === containerId).map((event) => event.containerEventType);
      expect(types).toEqual([
        CONTAINER_CREATED_EVENT,
        CONTAINER_STARTED_EVENT,
        CONTAINER_STOPPED_EVENT,
        CONTAINER_DELETED_EVENT,
      ]);
    });
  });
});

test("containerd's own services answer directly, and are not to be reached through the relay", async () => {
  expect((await bytes(direct, CONTAINERD_VERSION, Buffer.alloc(0))).length).toBeGreaterThan(0);
  const error = await failure(bytes(relayed, CONTAINERD_VERSION, Buffer.alloc(0)));
  expect(error).toMatchObject({ code: 12, details: expect.stringContaining(CONTAINERD_VERSION) });
});

test('containerd is killed: calls in flight end with 14, the next one works, the connection stays', async () => {
  const kubelet = bench.rawClient();
  expect((await kubelet.call(VERSION)).trailers?.['grpc-status']).toBe('0');
  const stream = kubelet.request('/runtime.v1.RuntimeService/GetContainerEvents');
  stream.end(message(''));
  const events = kubelet.answer(stream);
  const grpcEvents = relayed.makeServerStreamRequest(
    Runtime.getContainerEvents.path,
    Runtime.getContainerEvents.requestSerialize,
    Runtime.getContainerEvents.responseDeserialize,
    {},
  );
  grpcEvents.resume();
  const lost = once(grpcEvents, 'error');
  await delay(200); // both streams have reached containerd
  await execa(LAB, ['kill', 'a', 'containerd', '--name', LAB_NAME], { stdin: 'ignore' });
  const cut = await events;
  expect((cut.trailers ?? cut.headers)?.['grpc-status']).toBe('14');
  expect((await lost)[0]).toMatchObject({ code: 14, details: expect.stringContaining(runtimeSocket) });
  expect((await kubelet.call(VERSION)).trailers?.['grpc-status']).toBe('0');
  expect(await call(relayed, Runtime.version, { version: '' })).toMatchObject({ runtimeName: 'containerd' });
  expect(kubelet.session.destroyed).toBe(false);
  expect(bench.events.map(({ event }) => event)).toEqual(expect.arrayContaining(['upstream-lost', 'upstream-back']));
});

function call<Q, A>(client: Client, definition: MethodDefinition<Q, A>, request: Q, timeoutMs = 60_000): Promise<A> {
  const { path, requestSerialize, responseDeserialize } = definition;
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      { deadline: Date.now() + timeoutMs },
      (error, answer) => (answer === undefined ? reject(error) : resolve(answer)),
    );
  });
}

function encoded<Q, A>({ path, requestSerialize }: MethodDefinition<Q, A>, request: Q): [string, Buffer] {
  return [path, requestSerialize(request)];
}

function bytes(client: Client, path: string, request: Buffer): Promise<Buffer> {
  const raw = (value: Buffer): Buffer => value;
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(path, raw, raw, request, (error, answer) =>
      answer === undefined ? reject(error) : resolve(answer),
    );
  });
}

function failure(promise: Promise<unknown>): Promise<ServiceError> {
  return promise.then(
    () => Promise.reject(new Error('the call succeeded')),
    (error: ServiceError) => error,
  );
}
