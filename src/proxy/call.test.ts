import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import {
  type ClientReadableStream,
  type Metadata,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { Bench, message, metadata, methods } from './relay.fixture.ts';
import { STREAM_WINDOW_BYTES } from './settings.ts';

const MiB = 1024 * 1024;
const raw = (buffer: Buffer): Buffer => buffer;
const echo = (call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>): void => done(null, call.request);
const UNARY = methods.unary.path;
const OK_TRAILERS = { 'grpc-status': '0' };

test('a unary call crosses with its answer', async () => {
  await using bench = await Bench.make();
  await bench.grpcServer({ unary: echo });
  await bench.relay();
  const client = bench.grpcClient();
  const answer = await new Promise((resolve, reject) => {
    client.makeUnaryRequest(UNARY, raw, raw, Buffer.from('ping'), (error, value) =>
      error ? reject(error) : resolve(value),
    );
  });
  expect(answer).toEqual(Buffer.from('ping'));
});

test('a server stream crosses message by message, and an unknown method of a known service too', async () => {
  await using bench = await Bench.make();
  await bench.grpcServer({
    download: (call: ServerWritableStream<Buffer, Buffer>) => {
      for (const text of ['one', 'two', 'three']) call.write(Buffer.from(text));
      call.end();
    },
  });
  await bench.relay();
  const stream = bench.grpcClient().makeServerStreamRequest(methods.download.path, raw, raw, Buffer.from('go'));
  expect(await texts(stream)).toEqual(['one', 'two', 'three']);
});

test('both directions of a stream are alive at the same time, and half-close crosses', async () => {
  await using bench = await Bench.make();
  await bench.grpcServer({
    both: (call: ServerDuplexStream<Buffer, Buffer>) => {
      call.on('data', (chunk: Buffer) => call.write(Buffer.from(`echo ${chunk}`)));
      call.on('end', () => {
        call.write(Buffer.from('half-closed'));
        call.end();
      });
    },
  });
  await bench.relay();
  const stream = bench.grpcClient().makeBidiStreamRequest(methods.both.path, raw, raw);
  stream.write(Buffer.from('a'));
  expect(String(await once(stream, 'data'))).toBe('echo a');
  stream.write(Buffer.from('b'));
  expect(String(await once(stream, 'data'))).toBe('echo b');
  stream.end();
  expect(await texts(stream)).toEqual(['half-closed']);
});

test('metadata crosses both ways, binary and repeated', async () => {
  await using bench = await Bench.make();
  const binary = [Buffer.from([0, 1, 255]), Buffer.from([7, 8])];
  let seen: Metadata | undefined;
  await bench.grpcServer({
    unary: (call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) => {
      seen = call.metadata;
      call.sendMetadata(
        metadata([
          ['head', 'x'],
          ['head-bin', binary[0] ?? ''],
        ]),
      );
      done(
        null,
        call.request,
        metadata([
          ['tail', '1'],
          ['tail', '2'],
          ['tail-bin', binary[1] ?? ''],
        ]),
      );
    },
  });
  await bench.relay();
  const sent = metadata([
    ['key', 'a'],
    ['key', 'b'],
    ['key-bin', binary[0] ?? ''],
    ['key-bin', binary[1] ?? ''],
  ]);
  const [head, tail] = await new Promise<[Metadata, Metadata]>((resolve, reject) => {
    const call = bench
      .grpcClient()
      .makeUnaryRequest(UNARY, raw, raw, Buffer.from(''), sent, (error) => error && reject(error));
    call.on('metadata', (first: Metadata) => call.on('status', (end) => resolve([first, end.metadata])));
  });
  expect(seen?.get('key-bin')).toEqual(binary);
  expect(seen?.get('key').join(', ')).toBe('a, b');
  expect([head.get('head'), head.get('head-bin')]).toEqual([['x'], [binary[0]]]);
  expect([tail.get('tail').join(', '), tail.get('tail-bin')]).toEqual(['1, 2', [binary[1]]]);
});

test('header fields arrive as they were sent: repeats apart, nothing added, authority localhost', async () => {
  await using bench = await Bench.make();
  let seen: string[] = [];
  await bench.rawServer((stream, _headers, fields) => {
    seen = fields;
    stream.respond([':status', '200', 'content-type', 'application/grpc', 'r', '1', 'r', '2'], {
      waitForTrailers: true,
    });
    stream.on('wantTrailers', () => stream.sendTrailers({ ...OK_TRAILERS, 't-bin': ['AQ', 'Ag'] }));
    stream.end(message('x'));
  });
  await bench.relay();
  await bench.rawClient().call(UNARY); // one that waits for the connection has less of its deadline left
  const fields = [
    'grpc-timeout',
    '12345678u',
    'k-bin',
    'AAE',
    'k-bin',
    'Bwg',
    'grpc-encoding',
    'gzip',
    'user-agent',
    'grpc-go/1.72',
    'authorization',
    'one',
    'authorization',
    'two',
  ];
  const answer = await bench.rawClient().call(UNARY, [':authority', '%2Frun%2Fcontainerd.sock', ...fields]);
  expect(pairs(seen)).toEqual(
    expect.arrayContaining([
      ':authority: localhost',
      'te: trailers',
      'grpc-timeout: 12345678u',
      'k-bin: AAE',
      'k-bin: Bwg',
      'grpc-encoding: gzip',
      'user-agent: grpc-go/1.72',
      'authorization: one',
      'authorization: two',
    ]),
  );
  expect(seen.length).toBe((4 + 2) * 2 + fields.length); // pseudo headers, content-type, te
  expect(pairs(answer.rawHeaders).filter((field) => !field.startsWith('date'))).toEqual([
    ':status: 200',
    'content-type: application/grpc',
    'r: 1',
    'r: 2',
  ]);
  expect(pairs(answer.rawTrailers)).toEqual(['grpc-status: 0', 't-bin: AQ', 't-bin: Ag']);
});

test('the relay adds no header of its own to an answer', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    const withoutDate = { endStream: true, sendDate: false };
    stream.respond([':status', '200', 'content-type', 'application/grpc', 'grpc-status', '0'], withoutDate);
  });
  await bench.relay();
  const answer = await bench.rawClient().call(UNARY);
  expect(pairs(answer.rawHeaders)).toEqual([':status: 200', 'content-type: application/grpc', 'grpc-status: 0']);
});

test('message bytes and compression flags are not touched', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers(OK_TRAILERS));
    stream.pipe(stream);
  });
  await bench.relay();
  const body = Buffer.concat([message('compressed?', 1), message(randomBytes(70_000)), message('')]);
  const answer = await bench.rawClient().call(UNARY, [], body);
  expect(answer.body.equals(body)).toBe(true);
});

test('an error that is all header stays one, with its details', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    stream.respond(
      {
        ':status': 200,
        'content-type': 'application/grpc',
        'grpc-status': '5',
        'grpc-message': 'no%20such',
        'grpc-status-details-bin': 'CAUSBA',
      },
      { endStream: true },
    );
  });
  await bench.relay();
  const answer = await bench.rawClient().call(UNARY);
  expect(answer.headersEndStream).toBe(true);
  expect(answer.headers).toMatchObject({
    'grpc-status': '5',
    'grpc-message': 'no%20such',
    'grpc-status-details-bin': 'CAUSBA',
  });
  expect(answer.trailers).toBeUndefined();
});

test('an error from a real server arrives with code, message and details', async () => {
  await using bench = await Bench.make();
  const details = Buffer.from([8, 9, 18, 4]);
  await bench.grpcServer({
    unary: (_call: unknown, done: sendUnaryData<Buffer>) =>
      done({
        code: status.FAILED_PRECONDITION,
        details: 'nö: 100%',
        metadata: metadata([['grpc-status-details-bin', details]]),
      }),
  });
  await bench.relay();
  const error = await unaryError(bench);
  expect(error).toMatchObject({ code: status.FAILED_PRECONDITION, details: 'nö: 100%' });
  expect(error.metadata.get('grpc-status-details-bin')).toEqual([details]);
});

test('a deadline that a client sets ends the call on both sides', async () => {
  await using bench = await Bench.make();
  const cancelled = Promise.withResolvers<void>();
  await bench.grpcServer({
    unary: (call: ServerUnaryCall<Buffer, Buffer>) => call.on('cancelled', () => cancelled.resolve()),
  });
  await bench.relay();
  const error = await unaryError(bench, { deadline: Date.now() + 100 });
  expect(error.code).toBe(status.DEADLINE_EXCEEDED);
  await cancelled.promise;
});

test('a cancelled call is cancelled upstream, and an unfinished request never looks finished there', async () => {
  await using bench = await Bench.make();
  const upstreamSaw: string[] = [];
  const closed = Promise.withResolvers<number>();
  await bench.rawServer((stream) => {
    stream.on('end', () => upstreamSaw.push(stream.aborted ? 'aborted end' : 'END_STREAM'));
    stream.on('close', () => closed.resolve(stream.rstCode));
    stream.resume();
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' });
  });
  await bench.relay();
  const client = bench.rawClient();
  const cancel = new AbortController();
  const stream = client.request(UNARY, [], cancel.signal);
  stream.write(message('half a request'));
  await once(stream, 'response');
  cancel.abort();
  expect(await closed.promise).toBe(8);
  expect(upstreamSaw).not.toContain('END_STREAM');
});

test('a client that goes away cancels its calls upstream', async () => {
  await using bench = await Bench.make();
  const arrived = Promise.withResolvers<void>();
  const closed = Promise.withResolvers<number>();
  await bench.rawServer((stream) => {
    arrived.resolve();
    stream.on('close', () => closed.resolve(stream.rstCode));
  });
  await bench.relay();
  const client = bench.rawClient();
  client.request(UNARY).end(message(''));
  await arrived.promise;
  client.session.destroy();
  expect(await closed.promise).toBe(8);
});

test.each([
  ['before response headers', false],
  ['after response headers', true],
])('a reset by the runtime %s keeps its code', async (_when, headersFirst) => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    // With trailers promised, Node does not end the stream before it resets it.
    if (headersFirst) stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    setImmediate(() => stream.close(11));
  });
  await bench.relay();
  const answer = await bench.rawClient().call(UNARY);
  expect(answer.resetCode).toBe(11);
  expect(answer.trailers).toBeUndefined();
});

test('a status that comes before the request has ended reaches the client, which is told to stop', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => {
      stream.sendTrailers({ 'grpc-status': '8', 'grpc-message': 'enough' });
      // As grpc-go does it: RST_STREAM with NO_ERROR behind the trailers.
      setImmediate(() => setImmediate(() => stream.close(0)));
    });
    stream.end(message('early'));
  });
  await bench.relay();
  const client = bench.rawClient();
  const stream = client.request(methods.upload.path);
  stream.write(message('first of many'));
  const answer = await client.answer(stream);
  expect(answer.trailers).toMatchObject({ 'grpc-status': '8', 'grpc-message': 'enough' });
  expect(answer.resetCode).toBe(0);
  expect(answer.body).toEqual(message('early'));
});

test('a reset without error and without a status is reported as a loss', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' });
    stream.write(message('part'), () => stream.close(0));
  });
  await bench.relay();
  const answer = await bench.rawClient().call(UNARY);
  expect(answer.trailers?.['grpc-status']).toBe('14');
  expect(decodeURIComponent(String(answer.trailers?.['grpc-message']))).toContain('without a status');
});

test('an answer that ends without a status is reported as a loss', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' });
    stream.end(message('no trailers follow'));
  });
  await bench.relay();
  const answer = await bench.rawClient().call(UNARY);
  expect(answer.trailers?.['grpc-status']).toBe('14');
});

test('an answer that is not gRPC passes as it is', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    stream.respond({ ':status': 415, 'content-type': 'text/plain' });
    stream.end('what is this?');
  });
  await bench.relay();
  const answer = await bench.rawClient().call(UNARY);
  expect(answer.headers?.[':status']).toBe(415);
  expect(String(answer.body)).toBe('what is this?');
  expect(answer.trailers).toBeUndefined();
});

test('a message of 32 MiB crosses in both directions', async () => {
  await using bench = await Bench.make();
  await bench.grpcServer({ unary: echo });
  await bench.relay();
  const sent = randomBytes(32 * MiB);
  const answer = await new Promise<Buffer | undefined>((resolve, reject) => {
    bench
      .grpcClient()
      .makeUnaryRequest(UNARY, raw, raw, sent, (error, value) => (error ? reject(error) : resolve(value)));
  });
  expect(answer?.equals(sent)).toBe(true);
});

test('a client that does not read makes the runtime wait, and gets everything when it reads', async () => {
  await using bench = await Bench.make();
  const total = 200 * MiB;
  let accepted = 0;
  await bench.rawServer(async (stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers(OK_TRAILERS));
    for (const chunk = Buffer.alloc(64 * 1024); accepted < total; accepted += chunk.length) {
      await new Promise((resolve) => stream.write(chunk, resolve));
    }
    stream.end();
  });
  await bench.relay();
  const client = bench.rawClient();
  const stream = client.request(methods.download.path);
  stream.end(message(''));
  await once(stream, 'response');
  const stalled = await settled(() => accepted);
  expect(stalled).toBeGreaterThan(0);
  expect(stalled).toBeLessThan(4 * STREAM_WINDOW_BYTES);
  let received = 0;
  stream.on('data', (chunk: Buffer) => {
    received += chunk.length;
  });
  await once(stream, 'end');
  expect(received).toBe(total);
});

test('a runtime that does not read makes the client wait', async () => {
  await using bench = await Bench.make();
  const read = Promise.withResolvers<void>();
  const received = Promise.withResolvers<number>();
  await bench.rawServer(async (stream) => {
    await read.promise;
    let bytes = 0;
    for await (const chunk of stream) bytes += (chunk as Buffer).length;
    received.resolve(bytes);
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '0' }, { endStream: true });
  });
  await bench.relay();
  const client = bench.rawClient();
  const stream = client.request(methods.upload.path);
  const total = 100 * MiB;
  let accepted = 0;
  const sending = (async () => {
    for (const chunk = Buffer.alloc(64 * 1024); accepted < total; accepted += chunk.length) {
      await new Promise((resolve) => stream.write(chunk, resolve));
    }
    stream.end();
  })();
  expect(await settled(() => accepted)).toBeLessThan(4 * STREAM_WINDOW_BYTES);
  read.resolve();
  await sending;
  expect(await received.promise).toBe(total);
  expect((await client.answer(stream)).headers?.['grpc-status']).toBe('0');
});

test('hundreds of streams that nobody reads do not hold up the other calls of their connection', async () => {
  await using bench = await Bench.make();
  const large = Buffer.alloc(MiB);
  await bench.rawServer((stream, headers) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers(OK_TRAILERS));
    stream.end(headers[':path'] === UNARY ? message('through') : large);
    stream.resume();
  });
  await bench.relay();
  const client = bench.rawClient();
  await Promise.all(
    Array.from({ length: 400 }, () => {
      const stream = client.request(methods.download.path);
      stream.end(message(''));
      return once(stream, 'response');
    }),
  );
  await delay(300); // the relay now holds as much of each as it takes
  const answer = await client.call(UNARY);
  expect(answer.body).toEqual(message('through'));
});

test('a request without a body crosses', async () => {
  await using bench = await Bench.make();
  const ended = Promise.withResolvers<void>();
  await bench.rawServer((stream) => {
    stream.on('end', () => ended.resolve());
    stream.resume();
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '0' }, { endStream: true });
  });
  await bench.relay();
  const client = bench.rawClient();
  const stream = client.session.request({ ':method': 'POST', ':path': UNARY }, { endStream: true });
  expect((await client.answer(stream)).headers?.['grpc-status']).toBe('0');
  await ended.promise;
});

async function texts(stream: ClientReadableStream<Buffer>): Promise<string[]> {
  const all: string[] = [];
  for await (const chunk of stream) all.push(String(chunk));
  return all;
}

function unaryError(bench: Bench, options: { deadline?: number } = {}): Promise<ServiceError> {
  return new Promise((resolve, reject) => {
    bench
      .grpcClient()
      .makeUnaryRequest(UNARY, raw, raw, Buffer.from(''), options, (error) =>
        error ? resolve(error) : reject(new Error('the call succeeded')),
      );
  });
}

/** The value of a counter once it has stood still for a while. */
async function settled(counter: () => number): Promise<number> {
  for (let last = -1; ; ) {
    await delay(400);
    if (counter() === last) return last;
    last = counter();
  }
}

function pairs(fields: readonly string[]): string[] {
  return fields.flatMap((name, i) => (i % 2 === 0 ? [`${name}: ${fields[i + 1]}`] : []));
}
