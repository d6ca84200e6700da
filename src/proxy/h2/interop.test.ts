import { connect, createServer, type Http2Server, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import { setTimeout as delay } from 'node:timers/promises';
import {
  Client,
  credentials,
  type Metadata,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type sendUnaryData,
  status,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { afterEach, expect, test } from 'vitest';
import { message, metadata, methods } from '../relay.fixture.ts';
import { EngineRelay } from './relay.fixture.ts';

const UNLIMITED = {
  'grpc.max_receive_message_length': -1,
  'grpc.max_send_message_length': -1,
  'grpc.max_metadata_size': 100_000,
};
const same = (value: Buffer): Buffer => value;
const MiB = 2 ** 20;

let stack = new AsyncDisposableStack();
afterEach(async () => {
  await stack.disposeAsync();
  stack = new AsyncDisposableStack();
});

async function relayTo(implementation: UntypedServiceImplementation): Promise<EngineRelay> {
  const relay = stack.use(await EngineRelay.make());
  const server = new Server(UNLIMITED);
  server.addService(methods, { ...implementation });
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${relay.upstream}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    );
  });
  stack.defer(() => server.forceShutdown());
  return relay;
}

function client(relay: EngineRelay): Client {
  const made = new Client(`unix:${relay.listen}`, credentials.createInsecure(), UNLIMITED);
  stack.defer(() => made.close());
  return made;
}

function unary(from: Client, body: Buffer, sent = metadata([])): Promise<{ answer: Buffer; trailers: Metadata }> {
  return new Promise((resolve, reject) => {
    let answer: Buffer | undefined;
    let trailers: Metadata | undefined;
    const call = from.makeUnaryRequest(methods.unary.path, same, same, body, sent, (error, value) => {
      if (error) return reject(error);
      answer = value;
      if (trailers !== undefined) resolve({ answer: answer ?? Buffer.alloc(0), trailers });
    });
    call.on('status', (final) => {
      trailers = final.metadata;
      if (answer !== undefined) resolve({ answer, trailers });
    });
  });
}

test('grpc-js: unary calls with metadata, binary and repeated, in both directions', async () => {
  const relay = await relayTo({
    unary: (call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) => {
      done(
        null,
        Buffer.concat([call.request, Buffer.from(String(call.metadata.get('k')))]),
        metadata([
          ['t-bin', Buffer.of(0, 255)],
          ['t-bin', Buffer.of(7)],
        ]),
      );
    },
  });
  const one = client(relay);
  for (let i = 0; i < 20; i += 1) {
    const { answer, trailers } = await unary(
      one,
      Buffer.from(`n${i}-`),
      metadata([
        ['k', 'a'],
        ['k', 'b'],
      ]),
    );
    expect(answer.toString()).toBe(`n${i}-a, b`);
    expect(trailers.get('t-bin')).toEqual([Buffer.of(0, 255), Buffer.of(7)]);
  }
  expect(relay.ends.every((end) => end.kind === 'answered' && end.status === '0')).toBe(true);
  expect(relay.upConnections).toBe(1);
});

test('grpc-js: a message of 32 MiB in both directions', async () => {
  const relay = await relayTo({
    unary: (call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) => done(null, call.request),
  });
  const body = Buffer.alloc(32 * MiB);
  for (let i = 0; i < body.length; i += 4096) body.writeUInt32LE(i, i);
  const { answer } = await unary(client(relay), body);
  expect(answer.equals(body)).toBe(true);
});

test('grpc-js: errors with details, trailers-only, and unknown methods', async () => {
  const relay = await relayTo({
    unary: (_call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) =>
      done({ code: status.NOT_FOUND, details: 'größe %', metadata: metadata([['d-bin', Buffer.of(1, 2)]]) }),
  });
  await expect(unary(client(relay), Buffer.alloc(0))).rejects.toMatchObject({ code: 5, details: 'größe %' });
  await expect(
    new Promise((resolve, reject) =>
      client(relay).makeUnaryRequest('/x.Y/Z', same, same, Buffer.alloc(0), (error, value) =>
        error ? reject(error) : resolve(value),
      ),
    ),
  ).rejects.toMatchObject({ code: status.UNIMPLEMENTED });
});

test('grpc-js: streams in both directions at once, half-closed and ended in order', async () => {
  const relay = await relayTo({
    both: (call: NodeJS.ReadWriteStream) => {
      call.on('data', (chunk: Buffer) => call.write(chunk));
      call.on('end', () => call.end());
    },
  });
  const call = client(relay).makeBidiStreamRequest(methods.both.path, same, same);
  let received = 0;
  call.on('data', (chunk: Buffer) => {
    expect(chunk.readUInt32BE()).toBe(received);
    received += 1;
  });
  const ended = new Promise((resolve) => call.on('status', resolve));
  for (let i = 0; i < 500; i += 1) {
    const body = Buffer.alloc(4 + ((i * 97) % 5000));
    body.writeUInt32BE(i);
    call.write(body);
  }
  call.end();
  expect(await ended).toMatchObject({ code: 0 });
  expect(received).toBe(500);
});

test('grpc-js: cancelling reaches the server, and a deadline the client', async () => {
  let cancelled = 0;
  const relay = await relayTo({
    unary: (call: NodeJS.EventEmitter) => {
      call.on('cancelled', () => {
        cancelled += 1;
      });
    },
  });
  const one = client(relay);
  const call = one.makeUnaryRequest(methods.unary.path, same, same, Buffer.alloc(0), () => undefined);
  await delay(100);
  call.cancel();
  await expect.poll(() => cancelled).toBe(1);
  await expect(
    new Promise((_resolve, reject) =>
      one.makeUnaryRequest(
        methods.unary.path,
        same,
        same,
        Buffer.alloc(0),
        metadata([]),
        { deadline: Date.now() + 50 },
        reject,
      ),
    ),
  ).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED });
  await expect.poll(() => cancelled).toBe(2);
});

test('grpc-js: a thousand calls at once', async () => {
  const relay = await relayTo({
    unary: (call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) =>
      void setTimeout(done, 50, null, call.request),
  });
  const one = client(relay);
  const bodies = Array.from({ length: 1000 }, (_, i) => Buffer.from(String(i)));
  const answers = await Promise.all(bodies.map((body) => unary(one, body)));
  expect(answers.map(({ answer }) => answer.toString())).toEqual(bodies.map(String));
});

test('grpc-js: the server dies in mid-call, before the headers and after them', async () => {
  const relay = stack.use(await EngineRelay.make());
  const sessions = new Set<ServerHttp2Session>();
  const server = await http2Server(relay.upstream, {});
  server.on('session', (session) => sessions.add(session.on('error', () => undefined)));
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    stream.on('error', () => undefined);
    if (headers[':path'] === methods.download.path) stream.respond({ 'content-type': 'application/grpc' });
    setTimeout(() => {
      for (const session of sessions) session.destroy();
    }, 30);
  });
  const one = client(relay);
  await expect(unary(one, Buffer.alloc(0))).rejects.toMatchObject({ code: 14, details: 'lost: connection' });
  const call = one.makeServerStreamRequest(methods.download.path, same, same, Buffer.alloc(0));
  call.on('data', () => undefined);
  const error = await new Promise((resolve) => call.on('error', resolve));
  expect(error).toMatchObject({ code: 14, details: 'lost: connection' });
  expect(relay.losses.map(({ progress }) => progress)).toEqual(['forwarded', 'answering']);
});

async function http2Server(path: string, settings: object): Promise<Http2Server> {
  const server = createServer({ settings, maxSessionMemory: 1000 });
  server.on('sessionError', () => undefined);
  const sessions = new Set<ServerHttp2Session>();
  server.on('session', (session) => sessions.add(session));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  stack.defer(async () => {
    for (const session of sessions) session.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return server;
}

interface Answer {
  status: number | undefined;
  body: Buffer;
  trailers: object | undefined;
  code: number | undefined;
}

function request(relay: EngineRelay, body: Buffer | undefined, settings = {}, count = 1): Promise<Answer[]> {
  const session = connect('http://localhost', { path: relay.listen, settings, maxSessionMemory: 1000 } as object);
  session.on('error', () => undefined);
  stack.defer(() => session.destroy());
  const all = Array.from({ length: count }, () => {
    const stream = session.request({
      ':method': 'POST',
      ':path': '/x',
      te: 'trailers',
      'content-type': 'application/grpc',
    });
    const answer: Answer = { status: undefined, body: Buffer.alloc(0), trailers: undefined, code: undefined };
    const chunks: Buffer[] = [];
    stream.on('error', () => undefined);
    stream.on('response', (headers) => {
      answer.status = headers[':status'];
      if (headers['grpc-status'] !== undefined) answer.trailers = { 'grpc-status': headers['grpc-status'] };
    });
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('trailers', ({ ...trailers }) => {
      answer.trailers = { 'grpc-status': trailers['grpc-status'] };
    });
    stream.end(body);
    return new Promise<Answer>((resolve) =>
      stream.on('close', () => resolve({ ...answer, body: Buffer.concat(chunks), code: stream.rstCode })),
    );
  });
  return Promise.all(all);
}

const echo = (server: Http2Server): void => {
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => undefined);
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.pipe(stream);
  });
};

test('node:http2: tiny windows on both sides', async () => {
  const relay = stack.use(await EngineRelay.make());
  echo(await http2Server(relay.upstream, { initialWindowSize: 7 }));
  const body = message('x'.repeat(3000));
  const [answer] = await request(relay, body, { initialWindowSize: 11 });
  expect(answer).toMatchObject({ status: 200, code: 0, trailers: { 'grpc-status': '0' } });
  expect(answer?.body.equals(body)).toBe(true);
});

test('node:http2: many large streams at once, through small windows and large frames', async () => {
  const relay = stack.use(await EngineRelay.make());
  echo(await http2Server(relay.upstream, { maxFrameSize: 100_000, maxConcurrentStreams: 20 }));
  const body = Buffer.alloc(500_000, 'abcdefghij');
  const answers = await request(relay, body, { initialWindowSize: 20_000, maxFrameSize: 50_000 }, 60);
  for (const answer of answers) {
    expect(answer).toMatchObject({ status: 200, code: 0, trailers: { 'grpc-status': '0' } });
    expect(answer.body.equals(body)).toBe(true);
  }
  expect(relay.errors).toEqual([]);
});

test('node:http2: an answer before the request is complete; the client is told to stop', async () => {
  const relay = stack.use(await EngineRelay.make());
  const server = await http2Server(relay.upstream, {});
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => undefined);
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '8' }, { endStream: true });
    setTimeout(() => stream.close(0), 20);
  });
  const session = connect('http://localhost', { path: relay.listen } as object);
  stack.defer(() => session.destroy());
  const stream = session.request({ ':method': 'POST', ':path': '/x' }, { endStream: false });
  stream.on('error', () => undefined);
  const seen: unknown[] = [];
  stream.on('response', (headers) => seen.push(headers['grpc-status']));
  stream.resume();
  await new Promise((resolve) => stream.on('close', resolve));
  expect([...seen, stream.rstCode]).toEqual(['8', 0]);
});

test('node:http2: a reset of the server crosses with its code', async () => {
  const relay = stack.use(await EngineRelay.make());
  const server = await http2Server(relay.upstream, {});
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => undefined);
    stream.close(11);
  });
  const [answer] = await request(relay, Buffer.alloc(10));
  expect(answer).toMatchObject({ status: undefined, code: 11 });
});

test('node:http2: a graceful end of the server moves new calls to a new connection and loses none', async () => {
  const relay = stack.use(await EngineRelay.make());
  const server = await http2Server(relay.upstream, {});
  const sessions: ServerHttp2Session[] = [];
  server.on('session', (session) => sessions.push(session));
  echo(server);
  for (let i = 0; i < 5; i += 1) {
    const calls = request(relay, Buffer.alloc(1000), {}, 20);
    await delay(2);
    sessions.at(-1)?.close();
    for (const answer of await calls) expect(answer).toMatchObject({ status: 200, code: 0 });
  }
  expect(relay.upConnections).toBeGreaterThan(1);
});
