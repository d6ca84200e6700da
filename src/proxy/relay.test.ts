import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { ServerHttp2Stream } from 'node:http2';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { ServerUnaryCall, ServerWritableStream, sendUnaryData } from '@grpc/grpc-js';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Field } from './h2/fields.ts';
import { Flag, FrameType, PREFACE, settingsFrame } from './h2/frames.ts';
import { dataFrame, headersFrame, RawPeer, REQUEST } from './h2/raw-peer.fixture.ts';
import { Bench, message, methods } from './relay.fixture.ts';

const UNARY = methods.unary.path;
const GRPC = { ':status': 200, 'content-type': 'application/grpc' };
const FOREIGN = '/containerd.services.version.v1.Version/Version';
const raw = (buffer: Buffer): Buffer => buffer;
const echo = (call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>): void => done(null, call.request);

function succeed(stream: ServerHttp2Stream): void {
  stream.respond(GRPC, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  stream.end(message('x'));
  stream.resume();
}

test("what is not the CRI's never reaches the runtime, and is logged once per path", async () => {
  await using bench = await Bench.make();
  const seen: string[] = [];
  await bench.rawServer((stream, headers) => {
    seen.push(headers[':path'] ?? '');
    succeed(stream);
  });
  await bench.relay();
  const client = bench.rawClient();
  for (let i = 0; i < 3; i += 1) {
    const answer = await client.call(FOREIGN, [], message(Buffer.alloc(100_000)));
    expect(answer.headersEndStream).toBe(true);
    expect(answer.headers).toMatchObject({
      ':status': 200,
      'grpc-status': '12',
      'grpc-message': expect.stringContaining(FOREIGN),
    });
  }
  expect((await client.call('/runtime.v1.ImageService/FromTheFuture')).trailers?.['grpc-status']).toBe('0');
  expect(seen).toEqual(['/runtime.v1.ImageService/FromTheFuture']);
  expect(bench.events.filter(({ event }) => event === 'path-refused')).toEqual([
    expect.objectContaining({ level: 'warn', path: FOREIGN }),
  ]);
});

test('a thousand calls are in flight at once, on one connection each side', async () => {
  await using bench = await Bench.make();
  const held: ServerHttp2Stream[] = [];
  const upstream = await bench.rawServer((stream) => {
    held.push(stream);
    if (held.length === 1000) for (const each of held) succeed(each);
  });
  await bench.relay();
  const client = bench.rawClient();
  await once(client.session, 'remoteSettings');
  const answers = await Promise.all(Array.from({ length: 1000 }, () => client.call(UNARY)));
  expect(answers.filter((answer) => answer.trailers?.['grpc-status'] === '0')).toHaveLength(1000);
  expect(upstream.connections).toBe(1);
});

test('thousands of cancelled calls do not cost a client its connection', async () => {
  await using bench = await Bench.make();
  let seen = 0;
  await bench.rawServer((stream, headers) => {
    seen += 1;
    if (headers[':path'] === UNARY) succeed(stream);
  });
  await bench.relay();
  const client = bench.rawClient();
  for (let round = 0; round < 30; round += 1) {
    const cancel = new AbortController();
    const before = seen;
    for (let i = 0; i < 100; i += 1) client.request(methods.download.path, [], cancel.signal).end(message(''));
    await vi.waitFor(() => expect(seen).toBe(before + 100));
    cancel.abort();
  }
  expect((await client.call(UNARY)).trailers?.['grpc-status']).toBe('0');
  expect(client.session.destroyed).toBe(false);
});

test('a client that sends garbage harms only itself', async () => {
  await using bench = await Bench.make();
  await bench.grpcServer({ unary: echo });
  await bench.relay();
  const client = bench.rawClient();
  await client.call(UNARY);
  for (const garbage of ['GET / HTTP/1.1\r\nHost: x\r\n\r\n', Buffer.alloc(1000, 0xff)]) {
    const socket = connect(bench.listen);
    socket.on('error', () => undefined);
    socket.write(garbage);
    socket.resume();
    await once(socket, 'close');
  }
  expect((await client.call(UNARY)).trailers?.['grpc-status']).toBe('0');
});

test('closing lets calls in flight finish and takes no new ones', async () => {
  await using bench = await Bench.make();
  const arrived = Promise.withResolvers<ServerHttp2Stream>();
  await bench.rawServer((stream) => arrived.resolve(stream));
  const relay = await bench.relay({ drainTimeoutMs: 30_000 });
  const client = bench.rawClient();
  const goaway = once(client.session, 'goaway');
  const answering = client.call(UNARY);
  const stream = await arrived.promise;
  const closed = relay.close();
  await goaway;
  await expect(once(connect(bench.listen), 'connect')).rejects.toMatchObject({ code: 'ENOENT' });
  succeed(stream);
  expect((await answering).trailers?.['grpc-status']).toBe('0');
  await closed;
  expect(bench.events.at(-1)).toMatchObject({ event: 'stopped', callsCut: 0 });
});

test('a call that a client sends before it has read the GOAWAY is answered, though none was in flight', async () => {
  await using bench = await Bench.make();
  await bench.grpcServer({ unary: echo });
  const relay = await bench.relay({ drainTimeoutMs: 30_000 });
  const socket = connect(bench.listen);
  const client = new RawPeer(socket, 'client');
  client.send(PREFACE, settingsFrame([]));
  await client.ping();
  const closed = relay.close();
  await client.goaway();
  await delay(300); // it has not got round to it yet, nor to the PING that asks whether it has
  const headers = REQUEST.map((one) => (one.name === ':path' ? new Field(':path', UNARY) : one));
  client.send(headersFrame(1, headers), dataFrame(1, message('late'), Flag.END_STREAM));
  await client.frame(({ type, flags }) => type === FrameType.HEADERS && (flags & Flag.END_STREAM) !== 0);
  expect(client.dataBytes(1)).toBe(message('late').length);
  await closed;
  expect(bench.events).toContainEqual(expect.objectContaining({ event: 'stopped', callsCut: 0 }));
});

test('event streams do not hold up the end: they are told at once, and the calls beside them finish', async () => {
  await using bench = await Bench.make();
  const arrived = Promise.withResolvers<void>();
  await bench.rawServer((stream, headers) => {
    stream.resume();
    stream.respond(GRPC, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    if (headers[':path']?.endsWith('/GetContainerEvents') === true) stream.write(message('an event'));
    else {
      arrived.resolve();
      setTimeout(() => stream.end(message('done')), 200);
    }
  });
  const relay = await bench.relay({ drainTimeoutMs: 60_000 });
  const client = bench.rawClient();
  const events = client.request('/runtime.v1.RuntimeService/GetContainerEvents');
  const ended = client.answer(events);
  const begun = once(events, 'response');
  events.end(message(''));
  await begun;
  const call = client.call(UNARY);
  await arrived.promise;
  await relay.close();
  expect((await ended).trailers).toMatchObject({ 'grpc-status': '14', 'grpc-message': 'gantry proxy is stopping' });
  expect((await call).trailers).toMatchObject({ 'grpc-status': '0' });
});

test('calls that outlast the drain are cut off with a status, and cancelled upstream', async () => {
  await using bench = await Bench.make();
  const cancelled = Promise.withResolvers<void>();
  await bench.grpcServer({
    download: (call: ServerWritableStream<Buffer, Buffer>) => {
      call.write(Buffer.from('first event'));
      call.on('cancelled', () => cancelled.resolve());
    },
  });
  const relay = await bench.relay({ drainTimeoutMs: 100 });
  const stream = bench.grpcClient().makeServerStreamRequest(methods.download.path, raw, raw, Buffer.from(''));
  await once(stream, 'data');
  const failed = once(stream, 'error');
  await relay.close();
  expect((await failed)[0]).toMatchObject({ code: 14, details: expect.stringContaining('stopping') });
  await cancelled.promise;
  expect(bench.events.at(-1)).toMatchObject({ event: 'stopped', callsCut: 1 });
});

test('calls that wait for the runtime do not delay the end, and nothing connects after it', async () => {
  await using bench = await Bench.make();
  const relay = await bench.relay({ upstreamWaitMs: 60_000 });
  const answering = bench.rawClient().call(UNARY);
  await vi.waitFor(() => expect(bench.events.at(-1)?.event).toBe('upstream-absent'));
  await relay.close();
  expect((await answering).headers?.['grpc-status']).toBe('14');
  const upstream = await bench.rawServer(succeed);
  await delay(200);
  expect(upstream.connections).toBe(0);
});

test('the command relays, logs JSON lines and exits 0 on SIGTERM', async () => {
  await using bench = await Bench.make();
  await bench.grpcServer({ unary: echo });
  const program = `
    import { proxyCommand } from ${JSON.stringify(new URL('../cli/proxy.ts', import.meta.url).href)};
    await proxyCommand().parseAsync(process.argv.slice(1), { from: 'user' });`;
  const options = ['--listen', bench.listen, '--upstream', bench.upstream, '--drain-timeout', '1000'];
  const relay = spawn(process.execPath, ['--input-type=module', '-e', program, '--', ...options], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  onTestFinished(() => void relay.kill('SIGKILL'));
  const exited = once(relay, 'exit');
  let log = '';
  relay.stderr.on('data', (chunk) => {
    log += chunk;
  });
  await vi.waitFor(() => expect(log).toContain('"started"'), { timeout: 10_000 });
  const client = bench.rawClient();
  expect((await client.call(UNARY)).trailers?.['grpc-status']).toBe('0');
  relay.kill('SIGTERM');
  expect(await exited).toEqual([0, null]);
  const events = log
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).event);
  expect(events).toEqual(['started', 'call', 'stopping', 'stopped']);
});
