import { once } from 'node:events';
import type { ServerHttp2Stream } from 'node:http2';
import { setTimeout as delay } from 'node:timers/promises';
import type { ServerUnaryCall, ServiceError, sendUnaryData } from '@grpc/grpc-js';
import { expect, test, vi } from 'vitest';
import { silentLog } from '../log.ts';
import { Bench, message, methods, RawServer } from './relay.fixture.ts';
import { Upstream } from './upstream.ts';

const UNARY = methods.unary.path;
const GRPC = { ':status': 200, 'content-type': 'application/grpc' };
const raw = (buffer: Buffer): Buffer => buffer;

function answerWith(text: string): (stream: ServerHttp2Stream) => void {
  return (stream) => {
    stream.respond(GRPC, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(message(text));
    stream.resume();
  };
}

function messageOf(fields: Record<string, unknown> | undefined): string {
  return decodeURIComponent(String(fields?.['grpc-message']));
}

test('a runtime that dies before it answers is reported trailers-only, naming its socket', async () => {
  await using bench = await Bench.make();
  const arrived = Promise.withResolvers<void>();
  const upstream = await bench.rawServer(() => arrived.resolve());
  await bench.relay();
  const answering = bench.rawClient().call(UNARY);
  await arrived.promise;
  await upstream.close();
  const answer = await answering;
  expect(answer.headersEndStream).toBe(true);
  expect(answer.headers).toMatchObject({ ':status': 200, 'grpc-status': '14' });
  expect(messageOf(answer.headers)).toContain(
    `containerd at ${bench.upstream} closed the connection while the call was in flight`,
  );
  expect(answer.resetCode).toBe(0);
});

test('a runtime that dies after its headers ends the call with trailers', async () => {
  await using bench = await Bench.make();
  const upstream = await bench.rawServer((stream) => stream.respond(GRPC));
  await bench.relay();
  const stream = bench.rawClient().request(UNARY);
  stream.end(message(''));
  await once(stream, 'response');
  const trailers = once(stream, 'trailers');
  stream.resume();
  await upstream.close();
  const [fields] = (await trailers) as [Record<string, unknown>];
  expect(fields['grpc-status']).toBe('14');
  expect(messageOf(fields)).toContain('closed the connection while the call was in flight');
});

test('a runtime that dies in the middle of a stream ends it with status 14, after what had arrived', async () => {
  await using bench = await Bench.make();
  const upstream = await bench.rawServer((stream) => {
    stream.respond(GRPC);
    stream.write(message('first'));
    stream.write(Buffer.concat([message('second'), message('half').subarray(0, 7)]));
  });
  await bench.relay();
  const client = bench.rawClient();
  const stream = client.request(methods.download.path);
  stream.end(message(''));
  const answering = client.answer(stream);
  await once(stream, 'data');
  await delay(50);
  await upstream.close();
  const answer = await answering;
  expect(answer.trailers?.['grpc-status']).toBe('14');
  expect(answer.body.subarray(0, 21)).toEqual(Buffer.concat([message('first'), message('second')]));
  expect(answer.resetCode).toBe(0);
});

test('a loss while the request is still being sent is a status too, never a bare reset', async () => {
  await using bench = await Bench.make();
  const arrived = Promise.withResolvers<void>();
  const upstream = await bench.rawServer(() => arrived.resolve());
  await bench.relay();
  const client = bench.rawClient();
  const stream = client.request(methods.upload.path);
  stream.write(message('more follows'));
  const answering = client.answer(stream);
  await arrived.promise;
  await upstream.close();
  const answer = await answering;
  expect(answer.headers).toMatchObject({ 'grpc-status': '14' });
  expect(answer.resetCode).toBe(0);
});

test('an answer that is complete when the runtime dies is a success', async () => {
  await using bench = await Bench.make();
  const upstream = await bench.rawServer(answerWith('done'));
  await bench.relay();
  const client = bench.rawClient();
  const answers = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const answer = await client.call(UNARY);
      return answer.trailers?.['grpc-status'];
    }),
  );
  await upstream.close();
  expect(new Set(answers)).toEqual(new Set(['0']));
});

test('a call that was sent is never sent again', async () => {
  await using bench = await Bench.make();
  let arrived = 0;
  let upstream = await bench.rawServer(() => {
    arrived += 1;
    void upstream.close();
  });
  await bench.relay();
  const answering = bench.rawClient().call(UNARY);
  await vi.waitFor(() => expect(arrived).toBe(1));
  let second = 0;
  upstream = await bench.rawServer(() => {
    second += 1;
  });
  expect((await answering).headers?.['grpc-status']).toBe('14');
  await delay(200);
  expect([arrived, second]).toEqual([1, 0]);
});

test('calls wait for a runtime that is not there, and share one connection once it is', async () => {
  await using bench = await Bench.make();
  await bench.relay({ upstreamWaitMs: 10_000 });
  const client = bench.rawClient();
  const answering = Promise.all(Array.from({ length: 50 }, () => client.call(UNARY)));
  await delay(300);
  const upstream = await bench.rawServer(answerWith('late'));
  const answers = await answering;
  expect(answers.map((answer) => answer.trailers?.['grpc-status'])).toEqual(Array(50).fill('0'));
  expect(upstream.connections).toBe(1);
});

test('a runtime that stays away is reported after the wait, and the call says that it was not sent', async () => {
  await using bench = await Bench.make();
  await bench.relay({ upstreamWaitMs: 150 });
  const started = performance.now();
  const answer = await bench.rawClient().call(UNARY);
  expect(performance.now() - started).toBeGreaterThan(100);
  expect(answer.headers).toMatchObject({ 'grpc-status': '14' });
  expect(messageOf(answer.headers)).toMatch(new RegExp(`containerd at ${bench.upstream} is not there.*not sent`));
});

test('a client that gives up while it waits takes nothing with it', async () => {
  await using bench = await Bench.make();
  await bench.relay({ upstreamWaitMs: 10_000 });
  const client = bench.rawClient();
  const cancel = new AbortController();
  client.request(UNARY, [], cancel.signal).end(message(''));
  const other = client.call(UNARY);
  await delay(100);
  cancel.abort();
  await delay(100);
  let calls = 0;
  await bench.rawServer((stream) => {
    calls += 1;
    answerWith('x')(stream);
  });
  expect((await other).trailers?.['grpc-status']).toBe('0');
  expect(calls).toBe(1);
});

test('the downstream connection outlives the runtime, and the next call works when it is back', async () => {
  await using bench = await Bench.make();
  const first = await bench.rawServer(answerWith('first'));
  await bench.relay();
  const client = bench.rawClient();
  expect((await client.call(UNARY)).body).toEqual(message('first'));
  await first.close();
  const answering = client.call(UNARY);
  await delay(100);
  await bench.rawServer(answerWith('second'));
  expect((await answering).body).toEqual(message('second'));
  expect(client.session.destroyed).toBe(false);
  expect(bench.events.map(({ event }) => event)).toEqual(['started', 'upstream-lost', 'upstream-back']);
});

test('after GOAWAY calls in flight finish, and new ones take a new connection', async () => {
  await using bench = await Bench.make();
  const held: ServerHttp2Stream[] = [];
  const upstream = await bench.rawServer((stream) => {
    held.push(stream);
  });
  await bench.relay();
  const client = bench.rawClient();
  const old = client.call(UNARY);
  await vi.waitFor(() => expect(held).toHaveLength(1));
  held[0]?.session?.close(); // GOAWAY, as a server that shuts down in order
  await vi.waitFor(() => expect(bench.events.map(({ event }) => event)).toContain('upstream-lost'));
  const fresh = client.call(UNARY);
  await vi.waitFor(() => expect(held).toHaveLength(2));
  expect(upstream.connections).toBe(2);
  for (const [i, stream] of held.entries()) answerWith(`${i}`)(stream);
  expect((await old).body).toEqual(message('0'));
  expect((await fresh).body).toEqual(message('1'));
});

test('after a GOAWAY with an error the calls in flight are a loss, not a reset', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => stream.session?.goaway(11));
  await bench.relay();
  const answer = await bench.rawClient().call(UNARY);
  expect(answer.headers).toMatchObject({ 'grpc-status': '14' });
});

test('a runtime that speaks no HTTP/2 is a loss as well', async () => {
  await using bench = await Bench.make();
  const { createServer } = await import('node:net');
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
  });
  server.listen(bench.upstream);
  await bench.relay();
  const answer = await bench.rawClient().call(UNARY);
  server.close();
  expect(answer.headers).toMatchObject({ 'grpc-status': '14' });
});

test('a refusal by the runtime reaches the client as a refusal, which it may retry', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => stream.close(7));
  await bench.relay();
  expect((await bench.rawClient().call(UNARY)).resetCode).toBe(7);
});

test('a real client sees UNAVAILABLE and goes on with the connection that it has', async () => {
  await using bench = await Bench.make();
  const arrived = Promise.withResolvers<void>();
  const first = await bench.grpcServer({ unary: () => arrived.resolve() });
  await bench.relay();
  const client = bench.grpcClient();
  const call = (): Promise<Buffer | undefined> =>
    new Promise((resolve, reject) => {
      client.makeUnaryRequest(UNARY, raw, raw, Buffer.from('x'), (error, value) =>
        error ? reject(error) : resolve(value),
      );
    });
  const failing = call().catch((error: ServiceError) => error);
  await arrived.promise;
  first.forceShutdown();
  expect(await failing).toMatchObject({ code: 14, details: expect.stringContaining('closed the connection') });
  await bench.grpcServer({
    unary: (request: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) => done(null, request.request),
  });
  expect(String(await call())).toBe('x');
});

test('a session that has carried its share of calls is replaced, without a call noticing', async () => {
  await using bench = await Bench.make();
  const server = new RawServer(answerWith('x'));
  await server.listen(bench.upstream);
  const upstream = new Upstream(bench.upstream, silentLog, 2);
  const signal = AbortSignal.timeout(5000);
  const sessions = new Set();
  for (let i = 0; i < 5; i += 1) sessions.add(upstream.openSession() ?? (await upstream.waitForSession(signal)));
  expect(sessions.size).toBe(3);
  upstream.close();
  await server.close();
});
