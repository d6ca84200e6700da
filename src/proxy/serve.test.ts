import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { expect, test, vi } from 'vitest';
import { GantryError } from '../errors.ts';
import type { OwnMethod } from './own.ts';
import { Bench, message } from './relay.fixture.ts';

const PATH = '/gantry.v1.Test/Call';
const own = (method: OwnMethod) => ({ own: new Map([[PATH, method]]) });

test('the request is given to the method, and its messages are the answer, without a runtime', async () => {
  await using bench = await Bench.make();
  await bench.relay(
    own(async function* (request) {
      yield request;
      yield Buffer.from('and more');
    }),
  );
  const answer = await bench.rawClient().call(PATH, [], message('ping'));
  expect(answer.body).toEqual(Buffer.concat([message('ping'), message('and more')]));
  expect(answer.trailers).toMatchObject({ 'grpc-status': '0' });
});

test('what it throws is the status', async () => {
  await using bench = await Bench.make();
  await bench.relay(
    own(async function* () {
      yield Buffer.from('first');
      throw new GantryError('NOT_FOUND', 'no such thing: ü');
    }),
  );
  const answer = await bench.rawClient().call(PATH);
  expect(answer.trailers).toMatchObject({ 'grpc-status': '5', 'grpc-message': 'no such thing: %C3%BC' });
});

test.each([
  ['more than 64 KiB', message(Buffer.alloc(100_000)), '8'],
  ['no message', Buffer.alloc(0), '13'],
  ['two messages', Buffer.concat([message('a'), message('b')]), '13'],
  ['a compressed message', message(gzipSync('a'), 1), '12'],
])('a request of %s is refused', async (_what, body, code) => {
  await using bench = await Bench.make();
  const method = vi.fn();
  await bench.relay(own(method));
  expect((await bench.rawClient().call(PATH, [], body)).trailers?.['grpc-status']).toBe(code);
  expect(method).not.toHaveBeenCalled();
});

test('a client that does not read makes the method wait', async () => {
  await using bench = await Bench.make();
  let yielded = 0;
  await bench.relay(
    own(async function* () {
      while (yielded < 1000) {
        yielded += 1;
        yield Buffer.alloc(64 * 1024);
      }
    }),
  );
  const stream = bench.rawClient().request(PATH);
  stream.end(message(''));
  await vi.waitFor(() => expect(yielded).toBeGreaterThan(0));
  await delay(300);
  expect(yielded).toBeLessThan(100);
  stream.close(8);
});

test('a client that goes away ends the method', async () => {
  await using bench = await Bench.make();
  const ended = Promise.withResolvers<void>();
  const began = Promise.withResolvers<void>();
  await bench.relay(
    own(async function* (_request, signal) {
      signal.addEventListener('abort', () => ended.resolve());
      began.resolve();
      yield Buffer.from('first');
      await ended.promise;
    }),
  );
  const client = bench.rawClient();
  client.request(PATH).end(message(''));
  await began.promise;
  client.session.destroy();
  await ended.promise;
});

test('the end of the relay ends the method with UNAVAILABLE, and does not wait for it', async () => {
  await using bench = await Bench.make();
  const relay = await bench.relay({
    ...own(async function* (_request, signal) {
      yield Buffer.from('first');
      await delay(60_000, undefined, { signal });
    }),
    drainTimeoutMs: 30_000,
  });
  const stream = bench.rawClient().request(PATH);
  const answering = new Promise<void>((resolve) => stream.once('data', () => resolve()));
  const trailers = new Promise((resolve) => stream.on('trailers', resolve));
  stream.end(message(''));
  await answering;
  await relay.close();
  expect(await trailers).toMatchObject({ 'grpc-status': '14' });
});
