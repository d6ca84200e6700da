import type { ServerHttp2Stream } from 'node:http2';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { VersionAnswer } from '../gen/cri/decoded.ts';
import { Recorder } from './recorder.ts';
import { Bench, message } from './relay.fixture.ts';

const UNIMPLEMENTED = '12';
const VERSION = 'RuntimeService/Version';

/** A runtime that has the given services, and a record of what it was asked. */
async function runtime(bench: Bench, has: string): Promise<string[]> {
  const seen: string[] = [];
  await bench.rawServer((stream, headers) => {
    const path = headers[':path'] ?? '';
    seen.push(path);
    answer(stream, path.startsWith(has) && !path.endsWith('CheckpointContainer'));
  });
  return seen;
}

const HEAD = { ':status': 200, 'content-type': 'application/grpc' };

function answer(stream: ServerHttp2Stream, known: boolean): void {
  if (known) answerWith(stream, Buffer.from('x'));
  else stream.respond({ ...HEAD, 'grpc-status': UNIMPLEMENTED }, { endStream: true });
}

function answerWith(stream: ServerHttp2Stream, content: Buffer): void {
  stream.respond(HEAD, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  stream.end(message(content));
}

test('a runtime that has only v1alpha2 is asked for that, and what it lacks is UNIMPLEMENTED', async () => {
  await using bench = await Bench.make();
  const seen = await runtime(bench, '/runtime.v1alpha2.');
  await bench.relay({ runtimeApi: 'auto' });
  const client = bench.rawClient();
  const answers = await Promise.all([
    client.call('/runtime.v1.RuntimeService/ListContainers'),
    client.call('/runtime.v1.ImageService/ListImages'),
  ]);
  expect(answers.map(({ trailers }) => trailers?.['grpc-status'])).toEqual(['0', '0']);
  const lacking = await client.call('/runtime.v1.RuntimeService/CheckpointContainer');
  expect(lacking.headers?.['grpc-status']).toBe(UNIMPLEMENTED);
  expect(seen).toEqual([
    `/runtime.v1.${VERSION}`,
    `/runtime.v1alpha2.${VERSION}`,
    '/runtime.v1alpha2.RuntimeService/ListContainers',
    '/runtime.v1alpha2.ImageService/ListImages',
    '/runtime.v1alpha2.RuntimeService/CheckpointContainer',
  ]);
  expect(bench.events).toContainEqual(expect.objectContaining({ event: 'runtime-api', version: 'v1alpha2' }));
});

test('a runtime that has v1 is asked once per connection, and its calls are left as they are', async () => {
  await using bench = await Bench.make();
  const seen = await runtime(bench, '/runtime.v1.');
  await bench.relay({ runtimeApi: 'auto' });
  const client = bench.rawClient();
  for (let i = 0; i < 3; i += 1) await client.call('/runtime.v1.RuntimeService/Status');
  expect(seen).toEqual([`/runtime.v1.${VERSION}`, ...Array(3).fill('/runtime.v1.RuntimeService/Status')]);
});

test('a runtime that has neither says so itself, of v1', async () => {
  await using bench = await Bench.make();
  const seen = await runtime(bench, '/nothing');
  await bench.relay({ runtimeApi: 'auto' });
  const { headers } = await bench.rawClient().call('/runtime.v1.RuntimeService/Status');
  expect(headers?.['grpc-status']).toBe(UNIMPLEMENTED);
  expect(seen.at(-1)).toBe('/runtime.v1.RuntimeService/Status');
});

test.each(['v1', 'v1alpha2'] as const)('a runtime that is said to have %s is not asked', async (version) => {
  await using bench = await Bench.make();
  const seen = await runtime(bench, '/');
  await bench.relay({ runtimeApi: version });
  await bench.rawClient().call('/runtime.v1.RuntimeService/Status');
  expect(seen).toEqual([`/runtime.${version}.RuntimeService/Status`]);
});

test('v1alpha2 is not to be reached by its own name, whatever the runtime speaks', async () => {
  await using bench = await Bench.make();
  const seen = await runtime(bench, '/runtime.v1alpha2.');
  await bench.relay({ runtimeApi: 'v1alpha2' });
  const { headers } = await bench.rawClient().call(`/runtime.v1alpha2.${VERSION}`);
  expect([headers?.['grpc-status'], seen]).toEqual([UNIMPLEMENTED, []]);
});

test('a runtime that does not say in time is taken for what it was, until it does', async () => {
  await using bench = await Bench.make();
  const seen: string[] = [];
  await bench.rawServer(async (stream, headers) => {
    const path = headers[':path'] ?? '';
    seen.push(path);
    if (path.endsWith('/Version')) await delay(400); // both are asked
    answer(stream, path.startsWith('/runtime.v1alpha2.'));
  });
  await bench.relay({ runtimeApi: 'auto' });
  const client = bench.rawClient();
  expect((await client.call('/runtime.v1.RuntimeService/Status')).headers?.['grpc-status']).toBe(UNIMPLEMENTED);
  await delay(500);
  expect((await client.call('/runtime.v1.RuntimeService/Status')).trailers?.['grpc-status']).toBe('0');
  expect(seen.slice(-2)).toEqual(['/runtime.v1.RuntimeService/Status', '/runtime.v1alpha2.RuntimeService/Status']);
});

test('a runtime of v1alpha2 is one of v1 to those who ask for its Version, from the very first call on', async () => {
  await using bench = await Bench.make();
  const told = VersionAnswer.encode({ runtimeApiVersion: 'v1alpha2' }).finish();
  await bench.rawServer((stream, headers) => {
    stream.resume();
    if (headers[':path'] === `/runtime.v1alpha2.${VERSION}`) answerWith(stream, Buffer.from(told));
    else answer(stream, false);
  });
  const modes: string[] = [];
  await bench.relay({
    runtimeApi: 'auto',
    observer: new Recorder([{ callEnded: ({ mode }) => void modes.push(mode) }]),
  });
  const client = bench.rawClient();
  for (let i = 0; i < 2; i += 1) {
    const { body } = await client.call(`/runtime.v1.${VERSION}`);
    expect(VersionAnswer.decode(body.subarray(5)).runtimeApiVersion).toBe('v1');
  }
  expect(modes).toEqual(['intercepted', 'intercepted']);
});

test('the Version of a runtime of v1 crosses as bytes, as soon as that is known', async () => {
  await using bench = await Bench.make();
  const told = Buffer.concat([Buffer.from('"\x02v1'), Buffer.from('\n\x010')]); // not in the order of the fields
  await bench.rawServer((stream) => {
    stream.resume();
    answerWith(stream, told);
  });
  const modes: string[] = [];
  await bench.relay({
    runtimeApi: 'auto',
    observer: new Recorder([{ callEnded: ({ mode }) => void modes.push(mode) }]),
  });
  const client = bench.rawClient();
  for (let i = 0; i < 2; i += 1) expect((await client.call(`/runtime.v1.${VERSION}`)).body).toEqual(message(told));
  expect(modes).toEqual(['intercepted', 'piped']);
});

test('a runtime that says that it is still starting is waited for like one that is not there', async () => {
  await using bench = await Bench.make();
  const seen: string[] = [];
  let started = false;
  await bench.rawServer((stream, headers) => {
    stream.resume();
    seen.push(headers[':path'] ?? '');
    // containerd accepts connections before its CRI plugin is loaded ("server is not initialized yet").
    if (!started) stream.respond({ ...HEAD, 'grpc-status': '14' }, { endStream: true });
    else answerWith(stream, Buffer.from('x'));
  });
  await bench.relay({ runtimeApi: 'auto', upstreamWaitMs: 10_000 });
  const answering = bench.rawClient().call('/runtime.v1.RuntimeService/Status');
  await delay(100);
  started = true;
  expect((await answering).trailers?.['grpc-status']).toBe('0');
  expect(seen.filter((path) => path.endsWith('/Status'))).toHaveLength(1);
});

test('one that never gets ready is waited for as long as was said, and no longer', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    stream.resume();
    stream.respond({ ...HEAD, 'grpc-status': '14' }, { endStream: true });
  });
  await bench.relay({ runtimeApi: 'auto', upstreamWaitMs: 200 });
  const { headers } = await bench.rawClient().call('/runtime.v1.RuntimeService/Status');
  expect(headers?.['grpc-status']).toBe('14');
  expect(decodeURIComponent(String(headers?.['grpc-message']))).toContain('waited 200 ms');
});
