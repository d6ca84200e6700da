import type { ServerHttp2Stream } from 'node:http2';
import { setTimeout as delay } from 'node:timers/promises';
import { type ServiceError, status } from '@grpc/grpc-js';
import { expect, test, vi } from 'vitest';
import { HealthService, HealthCheckResponse_ServingStatus as Serving } from '../gen/grpc/health/v1/health.ts';
import { connectSocket, unary } from '../runtime/grpc.ts';
import { healthMethods } from './health.ts';
import { probe, runtimeProbe } from './probe.ts';
import { Bench, message } from './relay.fixture.ts';

const GRPC = { ':status': 200, 'content-type': 'application/grpc' };
const VERSION = '/runtime.v1.RuntimeService/Version';

function answer(stream: ServerHttp2Stream, code: number): void {
  stream.respond({ ...GRPC, 'grpc-status': String(code) }, { endStream: true });
  stream.resume();
}

/** A relay with health whose runtime is asked every time. */
async function healthyRelay(bench: Bench, timeoutMs = 200) {
  await bench.relay({ own: new Map(healthMethods(runtimeProbe(bench.upstream, timeoutMs, 0), 20)) });
  const client = bench.grpcClient();
  const check = async (service = '') =>
    (await unary(client, HealthService.check, { service }, { timeoutMs: 5000 })).status;
  return { client, check };
}

test('it serves while the runtime answers, whatever it answers, and not otherwise', async () => {
  await using bench = await Bench.make();
  const { check } = await healthyRelay(bench);
  expect(await check()).toBe(Serving.NOT_SERVING);
  let code = 0;
  const runtime = await bench.rawServer((stream) => answer(stream, code));
  expect(await check()).toBe(Serving.SERVING);
  expect(await check('runtime.v1.RuntimeService')).toBe(Serving.SERVING);
  code = status.UNIMPLEMENTED;
  expect(await check()).toBe(Serving.SERVING);
  await runtime.close();
  expect(await check()).toBe(Serving.NOT_SERVING);
});

test('a runtime that hangs is not serving, and the answer comes all the same', async () => {
  await using bench = await Bench.make();
  await bench.rawServer(() => undefined);
  const { check } = await healthyRelay(bench, 50);
  expect(await check()).toBe(Serving.NOT_SERVING);
});

test('the relay itself serves without a runtime, and an unknown service is not found', async () => {
  await using bench = await Bench.make();
  const { check } = await healthyRelay(bench);
  expect(await check('gantry.v1.Relay')).toBe(Serving.SERVING);
  await expect(check('no.such.Service')).rejects.toMatchObject({
    code: status.NOT_FOUND,
  } satisfies Partial<ServiceError>);
});

test('watching tells every change', async () => {
  await using bench = await Bench.make();
  const { client } = await healthyRelay(bench);
  const { path, requestSerialize, responseDeserialize } = HealthService.watch;
  const stream = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, { service: '' });
  const told: number[] = [];
  stream.on('data', (response) => told.push(response.status));
  stream.on('error', () => undefined);
  await vi.waitFor(() => expect(told).toEqual([Serving.NOT_SERVING]));
  const runtime = await bench.rawServer((each) => answer(each, 0));
  await vi.waitFor(() => expect(told).toEqual([Serving.NOT_SERVING, Serving.SERVING]));
  await delay(100);
  await runtime.close();
  await vi.waitFor(() => expect(told).toEqual([Serving.NOT_SERVING, Serving.SERVING, Serving.NOT_SERVING]));
  stream.cancel();
});

test('the runtime is asked once, however many want to know', async () => {
  await using bench = await Bench.make();
  const seen: unknown[] = [];
  await bench.rawServer((stream, headers) => {
    seen.push(headers[':path']);
    answer(stream, 0);
  });
  const answers = runtimeProbe(bench.upstream);
  expect(await Promise.all([answers(), answers(), answers()])).toEqual([true, true, true]);
  expect(await answers()).toBe(true);
  expect(seen).toEqual([VERSION]);
});

test('a probe sends its message and leaves no connection behind', async () => {
  await using bench = await Bench.make();
  const bodies: Buffer[] = [];
  let open = 0;
  await bench.rawServer((stream) => {
    open += 1;
    stream.session?.on('close', () => {
      open -= 1;
    });
    stream.on('data', (chunk: Buffer) => bodies.push(chunk));
    stream.on('end', () => answer(stream, 7));
  });
  expect(await probe(bench.upstream, VERSION, Buffer.from('hello'), 1000)).toBe(7);
  expect(Buffer.concat(bodies)).toEqual(message('hello'));
  await vi.waitFor(() => expect(open).toBe(0));
  expect(await probe(`${bench.folder}/nobody`, VERSION, Buffer.alloc(0), 1000)).toBeUndefined();
});

test('connectSocket reaches it as any gRPC client does', async () => {
  await using bench = await Bench.make();
  await healthyRelay(bench);
  const client = connectSocket(bench.listen);
  const { status: serving } = await unary(
    client,
    HealthService.check,
    { service: 'gantry.v1.Relay' },
    { timeoutMs: 5000 },
  );
  client.close();
  expect(serving).toBe(Serving.SERVING);
});
