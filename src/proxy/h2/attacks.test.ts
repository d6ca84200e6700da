import { describe, expect, test } from 'vitest';
import { ErrorCode, Flag, FrameType, frame, Setting, settingsFrame } from './frames.ts';
import {
  bench,
  block,
  codeOf,
  dataFrame,
  headersFrame,
  list,
  REQUEST,
  Recorder,
  rst,
  windowUpdate,
} from './raw-peer.fixture.ts';

const { END_STREAM, END_HEADERS, PADDED, ACK } = Flag;
const few = { burst: 100, perSecond: 1 };
const repeat = (n: number, make: (i: number) => Buffer): Buffer =>
  Buffer.concat(Array.from({ length: n }, (_, i) => make(i)));

describe('a flood ends the connection with ENHANCE_YOUR_CALM', () => {
  test.each<[string, Buffer]>([
    [
      'streams opened and reset ("rapid reset")',
      repeat(200, (i) => Buffer.concat([headersFrame(2 * i + 1), rst(2 * i + 1, 8)])),
    ],
    [
      'streams that have to be reset ("made you reset")',
      repeat(200, (i) => Buffer.concat([headersFrame(2 * i + 1), windowUpdate(2 * i + 1, 0)])),
    ],
    ['malformed requests', repeat(200, (i) => headersFrame(2 * i + 1, list(['x', 'y'])))],
    ['PING', repeat(200, () => frame(FrameType.PING, 0, 0, Buffer.alloc(8)))],
    ['acknowledgements of PING', repeat(200, () => frame(FrameType.PING, ACK, 0, Buffer.alloc(8)))],
    ['SETTINGS', repeat(200, () => settingsFrame([[Setting.INITIAL_WINDOW_SIZE, 1]]))],
    ['acknowledgements of SETTINGS', repeat(200, () => frame(FrameType.SETTINGS, ACK, 0))],
    ['PRIORITY', repeat(200, () => frame(FrameType.PRIORITY, 0, 1, Buffer.alloc(5)))],
    ['unknown frames', repeat(200, () => frame(0x42, 0, 1))],
    ['empty DATA', Buffer.concat([headersFrame(1), repeat(200, () => dataFrame(1, 0))])],
    [
      'DATA of nothing but padding',
      Buffer.concat([headersFrame(1), repeat(200, () => frame(FrameType.DATA, PADDED, 1, Buffer.of(1, 0)))]),
    ],
    ['DATA of closed streams', Buffer.concat([headersFrame(1), rst(1, 8), repeat(200, () => dataFrame(1, 1))])],
    ['HEADERS of closed streams', Buffer.concat([headersFrame(1), rst(1, 8), repeat(200, () => headersFrame(1))])],
    ['GOAWAY', repeat(200, () => frame(FrameType.GOAWAY, 0, 0, Buffer.alloc(8)))],
    [
      'empty CONTINUATION',
      Buffer.concat([
        frame(FrameType.HEADERS, 0, 1, block(REQUEST)),
        repeat(200, () => frame(FrameType.CONTINUATION, 0, 1)),
      ]),
    ],
    [
      'full CONTINUATION',
      Buffer.concat([
        frame(FrameType.HEADERS, 0, 1, block(REQUEST)),
        repeat(9, () => frame(FrameType.CONTINUATION, 0, 1, Buffer.alloc(16_384, 0x82))),
      ]),
    ],
  ])('%s', async (name, bytes) => {
    const { peer, closed, streams } = bench('server', { limits: { resets: few, idleFrames: few } });
    // With a stream open GOAWAY does not close the connection at once.
    if (name === 'GOAWAY') peer.send(headersFrame(1));
    peer.send(bytes);
    expect(codeOf(await peer.goaway())).toBe(ErrorCode.ENHANCE_YOUR_CALM);
    await closed;
    expect(streams.length).toBeLessThanOrEqual(101);
  });
});

test('a header list of many empty fields ("zero-length headers") is refused, without being kept', async () => {
  const { peer, streams } = bench('server');
  const fields = Buffer.alloc(16_000 - (16_000 % 3), Buffer.of(0x00, 0x00, 0x00));
  peer.send(frame(FrameType.HEADERS, 0, 1, fields), frame(FrameType.CONTINUATION, END_HEADERS, 1, block(REQUEST)));
  expect(codeOf(await peer.reset(1))).toBe(ErrorCode.ENHANCE_YOUR_CALM);
  expect(streams).toHaveLength(0);
  await peer.ping();
});

test('a header block of references to one large entry ("HPACK bomb") is refused', async () => {
  const { peer, streams } = bench('server');
  const entry = Buffer.from(list(['a', 'v'.repeat(4000)])[0]?.wire ?? []);
  entry[0] = 0x40; // with indexing
  peer.send(frame(FrameType.HEADERS, END_HEADERS, 1, Buffer.concat([entry, Buffer.alloc(12_000, 0xbe)])));
  expect(codeOf(await peer.reset(1))).toBe(ErrorCode.ENHANCE_YOUR_CALM);
  expect(streams).toHaveLength(0);
  await peer.ping();
});

test('a peer that asks for answers and opens its window byte by byte is served so, from a queue that does not grow', async () => {
  const { peer, streams, connection } = bench('server', { settings: [[Setting.INITIAL_WINDOW_SIZE, 0]] });
  peer.send(headersFrame(1, REQUEST, END_STREAM));
  await peer.ping();
  streams[0]?.stream.sendHeaders(list([':status', '200']), false);
  streams[0]?.stream.sendData(Buffer.alloc(1000), true);
  peer.send(repeat(600, () => windowUpdate(1, 1)));
  await peer.ping();
  expect(peer.dataBytes(1)).toBe(600);
  expect(connection.queuedBytes).toBe(400);
});

test('a peer that lets answers pile up behind closed windows loses its connection at the limit, and memory with it', async () => {
  const { peer, streams, closed, connection } = bench('server', {
    settings: [[Setting.INITIAL_WINDOW_SIZE, 0]],
    limits: { queuedBytes: 1_000_000 },
  });
  peer.send(repeat(20, (i) => headersFrame(2 * i + 1, REQUEST, END_STREAM)));
  await peer.ping();
  for (const { stream } of streams) stream.sendData(Buffer.alloc(100_000), false);
  expect(await closed).toMatchObject({ by: 'us', code: ErrorCode.ENHANCE_YOUR_CALM });
  expect(connection.queuedBytes).toBe(0);
});

test('a peer that reads nothing gets no data beyond what its socket holds, whatever its windows', async () => {
  const { peer, streams, connection } = bench('server', { settings: [[Setting.INITIAL_WINDOW_SIZE, 2 ** 31 - 1]] });
  peer.send(windowUpdate(0, 2 ** 30), headersFrame(1, REQUEST, END_STREAM));
  await peer.ping();
  peer.socket.pause();
  for (let i = 0; i < 100; i += 1) {
    streams[0]?.stream.sendData(Buffer.alloc(100_000), false);
    await new Promise(setImmediate);
  }
  expect(connection.queuedBytes).toBeGreaterThan(9_000_000);
  expect(connection.output.bytes).toBeLessThan(500_000);
  peer.socket.resume();
  await expect.poll(() => peer.dataBytes(1)).toBe(10_000_000);
  expect(connection.queuedBytes).toBe(0);
});

test('a peer that reads nothing and asks for answers to its PINGs loses its connection', async () => {
  const { peer, closed } = bench('server', {
    limits: { queuedBytes: 20_000, idleFrames: { burst: 1e6, perSecond: 1 } },
  });
  await peer.ping();
  peer.socket.pause();
  for (let i = 0; i < 1000; i += 1) {
    peer.send(repeat(10, () => frame(FrameType.PING, 0, 0, Buffer.alloc(8))));
    await new Promise(setImmediate);
  }
  expect(await closed).toMatchObject({ code: ErrorCode.ENHANCE_YOUR_CALM });
});

test('tiny DATA frames that nobody takes cost little more than their bytes', async () => {
  const { peer, streams } = bench('server', { consume: false, limits: { streamWindowBytes: 65_535 } });
  const other = bench('client', { settings: [[Setting.INITIAL_WINDOW_SIZE, 0]] });
  await other.peer.ping();
  const up = other.connection.open(new Recorder());
  up.sendHeaders(REQUEST, false);
  peer.send(headersFrame(1));
  await peer.ping();
  const handler = streams[0]?.recorder;
  if (handler !== undefined) handler.onData = (view) => up.sendData(view, false);
  global.gc?.();
  const before = process.memoryUsage();
  for (let i = 0; i < 60; i += 1) {
    peer.send(repeat(1000, () => dataFrame(1, 1)));
    await peer.ping();
  }
  expect(up.queuedBytes).toBe(60_000);
  expect(process.memoryUsage().arrayBuffers - before.arrayBuffers).toBeLessThan(16 * 2 ** 20);
});

test('what one client does to its connection does not disturb another, through one upstream connection', async () => {
  // See splice.test.ts: "a client that stops reading holds up no other".
  const bad = bench('server', { limits: { resets: few } });
  const good = bench('server', { limits: { resets: few } });
  bad.peer.send(repeat(200, (i) => Buffer.concat([headersFrame(2 * i + 1), rst(2 * i + 1, 8)])));
  await bad.closed;
  good.peer.send(headersFrame(1));
  await good.peer.ping();
  expect(good.streams).toHaveLength(1);
});
