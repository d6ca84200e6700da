import type { ServerHttp2Stream } from 'node:http2';
import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { expect, test, vi } from 'vitest';
import { VersionAnswer } from '../../gen/cri/decoded.ts';
import { Bench, message } from '../relay.fixture.ts';
import { hook } from './hook.ts';
import type { AnswerRewriter, Interceptor } from './interceptor.ts';

const EVENTS = '/runtime.v1.RuntimeService/GetContainerEvents';
const GRPC = { ':status': 200, 'content-type': 'application/grpc' };
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();
const shout = (bytes: Uint8Array) => Buffer.from(text(bytes).toUpperCase());

function rewriting(rewriter: AnswerRewriter): { interceptors: Interceptor[] } {
  return { interceptors: [{ name: 'test', wants: () => true, decide: () => ({ kind: 'pass', rewriter }) }] };
}

async function runtime(bench: Bench, answer: (stream: ServerHttp2Stream) => void): Promise<void> {
  await bench.rawServer((stream) => {
    stream.resume();
    answer(stream);
  });
}

function respond(stream: ServerHttp2Stream, ...pieces: Buffer[]): void {
  stream.respond(GRPC, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', kept: 'as it was' }));
  for (const piece of pieces) stream.write(piece);
  stream.end();
}

test('each message of an answer is changed, left out or left alone, whatever the pieces it comes in', async () => {
  await using bench = await Bench.make();
  const all = Buffer.concat(['one', 'two', '', 'three'].map((one) => message(one)));
  await runtime(bench, (stream) => respond(stream, ...Array.from(all, (byte) => Buffer.of(byte))));
  await bench.relay(rewriting({ message: (one) => (text(one) === 'two' ? undefined : shout(one)) }));
  const answer = await bench.rawClient().call(EVENTS);
  expect(answer.body).toEqual(Buffer.concat([message('ONE'), message(''), message('THREE')]));
  expect(answer.trailers).toMatchObject({ 'grpc-status': '0', kept: 'as it was' });
});

test('compressed messages are rewritten, too', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    stream.resume();
    stream.respond({ ...GRPC, 'grpc-encoding': 'gzip' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(message(gzipSync('packed'), 1));
  });
  await bench.relay(rewriting({ message: shout }));
  expect((await bench.rawClient().call(EVENTS)).body).toEqual(message('PACKED'));
});

test('the order stays when rewriting takes time, and the status comes last', async () => {
  await using bench = await Bench.make();
  await runtime(bench, (stream) => respond(stream, message('30'), message('0'), message('10'), message('no')));
  await bench.relay(
    rewriting({
      message: (one) => (text(one) === 'no' ? shout(one) : delay(Number(text(one))).then(() => one)),
    }),
  );
  const answer = await bench.rawClient().call(EVENTS);
  expect(answer.body).toEqual(Buffer.concat(['30', '0', '10', 'NO'].map((one) => message(one))));
  expect(answer.trailers?.['grpc-status']).toBe('0');
});

test.each([
  ['all in one block', true],
  ['after messages', false],
])('a status %s is changed, and details that repeat it are left out', async (_how, only) => {
  await using bench = await Bench.make();
  const failed = {
    'grpc-status': '5',
    'grpc-message': 'no%20container%20real',
    'grpc-status-details-bin': 'AQ',
    x: 'y',
  };
  await runtime(bench, (stream) => {
    if (only) {
      stream.respond({ ...GRPC, ...failed }, { endStream: true });
      return;
    }
    stream.respond(GRPC, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers(failed));
    stream.end(message('as it was'));
  });
  await bench.relay(
    rewriting({ status: ({ code, message }) => ({ code, message: message.replace('real', 'virtual') }) }),
  );
  const { headers, trailers, headersEndStream, body } = await bench.rawClient().call(EVENTS);
  const last = only ? headers : trailers;
  expect(last).toMatchObject({ 'grpc-status': '5', 'grpc-message': 'no container virtual', x: 'y' });
  expect(last).not.toHaveProperty('grpc-status-details-bin');
  expect([headersEndStream, body]).toEqual([only, only ? Buffer.alloc(0) : message('as it was')]);
});

test('a status that is left as it was keeps its details', async () => {
  await using bench = await Bench.make();
  await runtime(bench, (stream) =>
    stream.respond({ ...GRPC, 'grpc-status': '5', 'grpc-status-details-bin': 'AQ' }, { endStream: true }),
  );
  await bench.relay(rewriting({ status: (status) => status }));
  expect((await bench.rawClient().call(EVENTS)).headers).toHaveProperty('grpc-status-details-bin', 'AQ');
});

test('a client that does not read makes the runtime wait, and gets everything when it reads', async () => {
  await using bench = await Bench.make();
  const piece = message(Buffer.alloc(60_000, 'x'));
  const pieces = 400;
  let written = 0;
  await runtime(bench, (stream) => {
    stream.respond(GRPC, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    const more = (): void => {
      while (written < pieces) {
        written += 1;
        if (!stream.write(piece)) {
          stream.once('drain', more);
          return;
        }
      }
      stream.end();
    };
    more();
  });
  await bench.relay(rewriting({ message: (one) => one }));
  const stream = bench.rawClient().request(EVENTS);
  stream.end(message(''));
  stream.pause();
  await vi.waitFor(() => expect(written).toBeGreaterThan(0));
  await delay(300);
  expect(written).toBeLessThan(60); // 3.6 MB: windows, the queue of the relay, and what sockets hold
  let got = 0;
  stream.on('data', (chunk: Buffer) => {
    got += chunk.length;
  });
  stream.resume();
  await new Promise((resolve) => stream.on('end', resolve));
  expect(got).toBe(pieces * piece.length);
});

test('a message of 12 MiB is rewritten, and one beyond 16 MiB is RESOURCE_EXHAUSTED', async () => {
  await using bench = await Bench.make();
  let size = 12 * 1024 * 1024;
  await runtime(bench, (stream) => respond(stream, message(Buffer.alloc(size, 'x'))));
  await bench.relay(rewriting({ message: (one) => one }));
  const client = bench.rawClient();
  expect((await client.call(EVENTS)).body.length).toBe(size + 5);
  size = 16 * 1024 * 1024 + 1;
  expect((await client.call(EVENTS)).trailers).toMatchObject({ 'grpc-status': '8' });
});

test.each([
  ['throws', () => Promise.reject(new Error('cannot')), '13'],
  [
    'throws at once',
    (): Uint8Array => {
      throw new Error('cannot');
    },
    '13',
  ],
])('a rewriter that %s ends the call, and only that one', async (_how, rewrite, code) => {
  await using bench = await Bench.make();
  await runtime(bench, (stream) => respond(stream, message('first'), message('second')));
  await bench.relay(rewriting({ message: (one) => (text(one) === 'second' ? rewrite() : one) }));
  const client = bench.rawClient();
  const other = client.request('/runtime.v1.RuntimeService/Other');
  const answer = await client.call(EVENTS);
  expect([answer.body, answer.trailers?.['grpc-status']]).toEqual([message('first'), code]);
  expect(bench.events).toContainEqual(expect.objectContaining({ event: 'internal-error', reason: 'cannot' }));
  expect(other.destroyed).toBe(false);
});

test('a runtime that ends inside a message is reported', async () => {
  await using bench = await Bench.make();
  await runtime(bench, (stream) => respond(stream, message('whole'), message('half').subarray(0, 7)));
  await bench.relay(rewriting({ message: (one) => one }));
  const answer = await bench.rawClient().call(EVENTS);
  expect([answer.body, answer.trailers?.['grpc-status']]).toEqual([message('whole'), '13']);
});

test('a runtime that dies while its messages are being rewritten is reported as lost', async () => {
  await using bench = await Bench.make();
  const server = await bench.rawServer((stream) => {
    stream.resume();
    stream.respond(GRPC);
    stream.write(message('first'));
  });
  const rewritten = Promise.withResolvers<Uint8Array>();
  const begun = Promise.withResolvers<void>();
  await bench.relay(
    rewriting({
      message: () => {
        begun.resolve();
        return rewritten.promise;
      },
    }),
  );
  const answer = bench.rawClient().call(EVENTS);
  await begun.promise;
  await server.close();
  expect((await answer).trailers).toMatchObject({ 'grpc-status': '14' });
  rewritten.resolve(Buffer.from('late'));
});

test('a typed hook sees messages decoded; what it does not declare is kept, and what it leaves alone stays as it came', async () => {
  await using bench = await Bench.make();
  // VersionResponse: version "0.1.0", runtime_name "containerd", runtime_version "v", runtime_api_version.
  const fields = (api: string) =>
    Buffer.from(`\x0a\x050.1.0\x12\x0acontainerd\x1a\x01v\x22${String.fromCharCode(api.length)}${api}`);
  let api = 'v1alpha2';
  await runtime(bench, (stream) => respond(stream, message(fields(api))));
  const typed = hook({
    name: 'typed',
    method: 'Version',
    request: VersionAnswer,
    answer: VersionAnswer,
    decide: () => ({
      kind: 'pass',
      rewriter: {
        message: (answer) => (answer.runtimeApiVersion === 'v1' ? answer : { ...answer, runtimeApiVersion: 'changed' }),
      },
    }),
  });
  await bench.relay({ interceptors: [typed] });
  const client = bench.rawClient();
  const changed = await client.call('/runtime.v1.RuntimeService/Version');
  const { _unknownFields, ...known } = VersionAnswer.decode(changed.body.subarray(5));
  expect(known).toEqual({ runtimeApiVersion: 'changed' });
  expect(Object.keys(_unknownFields ?? {})).toHaveLength(3);
  api = 'v1';
  expect((await client.call('/runtime.v1.RuntimeService/Version')).body).toEqual(message(fields('v1')));
});
