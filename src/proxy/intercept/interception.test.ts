import type { ServerHttp2Stream } from 'node:http2';
import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { status } from '@grpc/grpc-js';
import { expect, test, vi } from 'vitest';
import { GantryError } from '../../errors.ts';
import { Recorder } from '../recorder.ts';
import { Bench, message, RawServer } from '../relay.fixture.ts';
import { type Decision, type HeldCall, type Interceptor, PASS } from './interceptor.ts';

const STOP = '/runtime.v1.RuntimeService/StopContainer';
const EVENTS = '/runtime.v1.RuntimeService/GetContainerEvents';
// What the recorder asks of its own accord, to know names.
const LEARNING = new Set(['ListPodSandbox', 'ListContainers'].map((name) => `/runtime.v1.RuntimeService/${name}`));
const GRPC = { ':status': 200, 'content-type': 'application/grpc' };
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();
const bytes = (content: string) => Buffer.from(content);

interface Seen {
  path: string;
  timeout: string | undefined;
  body: Buffer;
}

/** A runtime that tells what it was asked, and answers with these messages. */
async function runtime(bench: Bench, ...answers: (string | Buffer)[]): Promise<Seen[]> {
  const seen: Seen[] = [];
  await bench.rawServer((stream, headers) => {
    if (LEARNING.has(headers[':path'] ?? '')) return succeed(stream);
    const chunks: Buffer[] = [];
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('end', () => {
      const timeout = headers['grpc-timeout'];
      seen.push({
        path: headers[':path'] ?? '',
        timeout: timeout === undefined ? undefined : String(timeout),
        body: Buffer.concat(chunks),
      });
      succeed(stream, ...answers);
    });
  });
  return seen;
}

function succeed(stream: ServerHttp2Stream, ...answers: (string | Buffer)[]): void {
  stream.respond(GRPC, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  for (const one of answers) stream.write(message(one));
  stream.end();
}

function interceptor(
  decide: (request: Uint8Array, call: HeldCall) => Decision | Promise<Decision>,
  method = 'StopContainer',
): Interceptor {
  return { name: 'test', wants: (call) => call.method === method, decide };
}

/** The modes of calls as they end. */
function recorder(): { modes: string[]; observer: Recorder } {
  const modes: string[] = [];
  return { modes, observer: new Recorder([{ callEnded: ({ mode }) => void modes.push(mode) }]) };
}

test('a call that nobody wants is piped, whatever its bytes', async () => {
  await using bench = await Bench.make();
  const seen = await runtime(bench, 'answer');
  const { modes, observer } = recorder();
  const decide = vi.fn(() => PASS);
  await bench.relay({ observer, interceptors: [interceptor(decide)] });
  const body = Buffer.from('no message at all');
  const answer = await bench.rawClient().call(EVENTS, [], body);
  expect([seen[0]?.body, answer.body, modes]).toEqual([body, message('answer'), ['piped']]);
  expect(decide).not.toHaveBeenCalled();
});

test('a call that is looked at and passed on is the same call', async () => {
  await using bench = await Bench.make();
  const seen = await runtime(bench, 'answer');
  const { modes, observer } = recorder();
  const requests: string[] = [];
  const look = interceptor((request) => {
    requests.push(text(request));
    return PASS;
  });
  await bench.relay({ observer, interceptors: [look] });
  const client = bench.rawClient();
  await client.call(EVENTS); // there is a connection from here on
  const answer = await client.call(STOP, ['grpc-timeout', '12345678u'], message('stop it'));
  expect(requests).toEqual(['stop it']);
  expect(seen[1]).toEqual({ path: STOP, timeout: '12345678u', body: message('stop it') });
  expect([answer.body, answer.trailers?.['grpc-status']]).toEqual([message('answer'), '0']);
  expect(modes).toEqual(['piped', 'intercepted']);
});

test('the request can be changed, also one that came compressed', async () => {
  await using bench = await Bench.make();
  const seen = await runtime(bench);
  await bench.relay({
    interceptors: [interceptor((request) => ({ kind: 'pass', request: bytes(`${text(request)}, but gently`) }))],
  });
  await bench.rawClient().call(STOP, ['grpc-encoding', 'gzip'], message(gzipSync('stop it'), 1));
  expect(seen[0]?.body).toEqual(message('stop it, but gently'));
});

test('a large request passes, larger than every window', async () => {
  await using bench = await Bench.make();
  const seen = await runtime(bench, 'answer');
  await bench.relay({ interceptors: [interceptor(() => PASS)] });
  const body = message(Buffer.alloc(5 * 1024 * 1024, 'r'));
  expect((await bench.rawClient().call(STOP, [], body)).trailers?.['grpc-status']).toBe('0');
  expect(seen[0]?.body.equals(body)).toBe(true);
});

test.each([
  ['none', Buffer.alloc(0), '13'],
  ['two messages', Buffer.concat([message('a'), message('b')]), '13'],
  ['half a message', message('half').subarray(0, 7), '13'],
  ['more than 16 MiB', message(Buffer.alloc(16 * 1024 * 1024 + 1)), '8'],
])('a request of %s gets a status, and nobody has to decide', async (_what, body, code) => {
  await using bench = await Bench.make();
  const decide = vi.fn(() => PASS);
  await bench.relay({ interceptors: [interceptor(decide)] });
  const answer = await bench.rawClient().call(STOP, [], body);
  expect(answer.headers?.['grpc-status']).toBe(code);
  expect(decide).not.toHaveBeenCalled();
});

test('a call can be answered without the runtime, with one message or a stream that waits for its reader', async () => {
  await using bench = await Bench.make();
  let yielded = 0;
  async function* endless(): AsyncIterable<Uint8Array> {
    while (yielded < 1000) {
      yielded += 1;
      yield Buffer.alloc(64 * 1024);
    }
  }
  await bench.relay({
    interceptors: [
      interceptor((request) => ({ kind: 'answer', messages: [bytes(`no need: ${text(request)}`)] })),
      interceptor(() => ({ kind: 'answer', messages: endless() }), 'GetContainerEvents'),
    ],
  });
  const client = bench.rawClient();
  const answer = await client.call(STOP, [], message('stop it'));
  expect([answer.body, answer.trailers?.['grpc-status']]).toEqual([message('no need: stop it'), '0']);
  const stream = client.request(EVENTS);
  stream.end(message(''));
  await vi.waitFor(() => expect(yielded).toBeGreaterThan(0));
  await delay(200);
  expect(yielded).toBeLessThan(100);
  stream.close(8);
});

test.each([
  [
    'decides so',
    () => ({ kind: 'fail', code: status.FAILED_PRECONDITION, message: 'the slot is empty' }) as const,
    '9',
  ],
  ['throws an error of ours', () => Promise.reject(new GantryError('NOT_FOUND', 'the slot is empty')), '5'],
  [
    'throws any other',
    (): Decision => {
      throw new Error('the slot is empty');
    },
    '13',
  ],
])('a call fails all in one block when the interceptor %s', async (_how, decide, code) => {
  await using bench = await Bench.make();
  const seen = await runtime(bench);
  await bench.relay({ interceptors: [interceptor(decide)] });
  const answer = await bench.rawClient().call(STOP);
  expect(answer.headersEndStream).toBe(true);
  expect(answer.headers).toMatchObject({ 'grpc-status': code, 'grpc-message': 'the slot is empty' });
  expect(seen).toEqual([]);
  const errors = bench.events.filter(({ event }) => event === 'internal-error');
  expect(errors).toHaveLength(code === '13' ? 1 : 0);
});

test('a held call holds up no other, not even of its own method, and goes on with what is left of its deadline', async () => {
  await using bench = await Bench.make();
  const seen = await runtime(bench);
  const release = Promise.withResolvers<Decision>();
  let held = false;
  await bench.relay({
    interceptors: [
      interceptor((request) => {
        if (text(request) !== 'hold me') return PASS;
        held = true;
        return release.promise;
      }),
    ],
  });
  const client = bench.rawClient();
  const waiting = client.call(STOP, ['grpc-timeout', '90S'], message('hold me'));
  await vi.waitFor(() => expect(held).toBe(true));
  for (const path of [STOP, EVENTS]) expect((await client.call(path)).trailers?.['grpc-status']).toBe('0');
  expect(seen).toHaveLength(2);
  await delay(50);
  release.resolve(PASS);
  expect((await waiting).trailers?.['grpc-status']).toBe('0');
  const [, digits] = /^(\d+)u$/.exec(seen[2]?.timeout ?? '') ?? [];
  expect(Number(digits)).toBeLessThanOrEqual(90_000_000 - 49_000);
  expect(Number(digits)).toBeGreaterThan(30_000_000);
});

test('a call is held while the runtime goes and comes back', async () => {
  await using bench = await Bench.make();
  const release = Promise.withResolvers<Decision>();
  await bench.relay({ interceptors: [interceptor(() => release.promise)], upstreamWaitMs: 10_000 });
  const before = new RawServer((stream) => succeed(stream));
  await before.listen(bench.upstream);
  const client = bench.rawClient();
  await client.call(EVENTS);
  const waiting = client.call(STOP);
  await before.close();
  release.resolve(PASS);
  await delay(20);
  const seen = await runtime(bench, 'from the next one');
  const answer = await waiting;
  expect([answer.body, answer.trailers?.['grpc-status'], seen.length]).toEqual([message('from the next one'), '0', 1]);
});

test.each([
  ['cancels', (client: ReturnType<Bench['rawClient']>, stream: ReturnType<typeof client.request>) => stream.close(8)],
  ['goes away', (client: ReturnType<Bench['rawClient']>) => client.session.destroy()],
])('who holds a call is told when the client %s, and the runtime never is', async (_how, leave) => {
  await using bench = await Bench.make();
  const seen = await runtime(bench);
  const held = Promise.withResolvers<HeldCall>();
  const release = Promise.withResolvers<Decision>();
  const ended: number[] = [];
  await bench.relay({
    observer: new Recorder([{ callEnded: ({ code }) => void ended.push(code) }]),
    interceptors: [
      interceptor((_request, call) => {
        held.resolve(call);
        return release.promise;
      }),
    ],
  });
  const client = bench.rawClient();
  const stream = client.request(STOP);
  stream.end(message('hold me'));
  const { signal } = await held.promise;
  expect(signal.aborted).toBe(false);
  leave(client, stream);
  await vi.waitFor(() => expect(signal.aborted).toBe(true));
  release.resolve(PASS);
  await delay(50);
  expect([seen, ended]).toEqual([[], [status.CANCELLED]]);
});

test('a deadline that passes while a call is held ends it, and tells who holds it', async () => {
  await using bench = await Bench.make();
  const calls: HeldCall[] = [];
  await bench.relay({
    interceptors: [
      interceptor((_request, call) => {
        calls.push(call);
        return new Promise(() => undefined);
      }),
    ],
  });
  const before = performance.now();
  const answer = await bench.rawClient().call(STOP, ['grpc-timeout', '100m']);
  expect(answer.headers?.['grpc-status']).toBe('4');
  expect(calls[0]?.signal.aborted).toBe(true);
  expect((calls[0]?.deadline ?? 0) - before).toBeGreaterThanOrEqual(100);
});

test('a relay that stops answers what is held, and tells who holds it', async () => {
  await using bench = await Bench.make();
  const held = Promise.withResolvers<HeldCall>();
  const relay = await bench.relay({
    interceptors: [
      interceptor((_request, call) => {
        held.resolve(call);
        return new Promise(() => undefined);
      }),
    ],
  });
  const answer = bench.rawClient().call(STOP);
  const { signal } = await held.promise;
  await relay.close();
  expect((await answer).headers?.['grpc-status']).toBe('14');
  expect(signal.aborted).toBe(true);
});

test('several look at a call in turn: each at the request of the one before, and at the answer the other way round', async () => {
  await using bench = await Bench.make();
  const seen = await runtime(bench, 'answer');
  const tag = (name: string) =>
    interceptor((request) => ({
      kind: 'pass',
      request: bytes(`${text(request)} ${name}`),
      rewriter: { message: (one) => bytes(`${text(one)} ${name}`) },
    }));
  await bench.relay({ interceptors: [tag('first'), interceptor(() => PASS, 'Other'), tag('second')] });
  const answer = await bench.rawClient().call(STOP, [], message('request'));
  expect([seen[0]?.body, answer.body]).toEqual([message('request first second'), message('answer second first')]);
});
