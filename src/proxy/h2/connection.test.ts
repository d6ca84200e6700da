import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test, vi } from 'vitest';
import {
  ErrorCode,
  Flag,
  FrameType,
  frame,
  goawayFrame,
  number32Frame,
  PREFACE,
  Setting,
  settingsFrame,
} from './frames.ts';
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
  typesOf,
  windowUpdate,
} from './raw-peer.fixture.ts';

const { END_STREAM, END_HEADERS, PADDED, PRIORITY, ACK } = Flag;
const OK = list([':status', '200'], ['content-type', 'application/grpc']);
const STATUS = list(['grpc-status', '0']);
const empty = Buffer.alloc(0);

describe('a server', () => {
  test('sends SETTINGS before it has heard anything, and acknowledges those of the client', async () => {
    const { peer } = bench('server', { greet: false });
    await peer.frame(({ type, flags }) => type === FrameType.SETTINGS && flags === 0);
    peer.send(PREFACE, settingsFrame([]));
    await peer.frame(({ type, flags }) => type === FrameType.SETTINGS && flags === ACK);
  });

  test('passes a request with a body and trailers on, and sends an answer', async () => {
    const { peer, streams } = bench('server');
    peer.send(headersFrame(1), dataFrame(1, 10), headersFrame(1, list(['x', 'y']), END_STREAM));
    await peer.ping();
    expect(streams[0]?.headers).toEqual(REQUEST);
    expect(streams[0]?.recorder.bytes).toBe(10);
    expect(streams[0]?.recorder.seen).toEqual(['trailers x=y']);
    streams[0]?.stream.sendHeaders(OK, false);
    streams[0]?.stream.sendData(Buffer.from('hello'), false);
    streams[0]?.stream.sendTrailers(STATUS);
    const answer = await peer.frame((one) => one.type === FrameType.HEADERS && (one.flags & END_STREAM) !== 0);
    expect(peer.decode((await peer.frame(({ type }) => type === FrameType.HEADERS)).payload)).toEqual([
      [':status', '200'],
      ['content-type', 'application/grpc'],
    ]);
    expect(peer.decode(answer.payload)).toEqual([['grpc-status', '0']]);
    expect(peer.dataBytes(1)).toBe(5);
    expect(streams[0]?.stream.closed).toBe(true);
  });

  test('reads padding and priority, and gives the padding back at once', async () => {
    const { peer, streams } = bench('server', { consume: false, limits: { streamWindowBytes: 65_535 } });
    const padded = Buffer.concat([Buffer.of(3, 0, 0, 0, 0, 0), block(REQUEST), Buffer.alloc(3)]);
    peer.send(frame(FrameType.HEADERS, END_HEADERS | PADDED | PRIORITY, 1, padded));
    for (let i = 0; i < 1000; i += 1) {
      peer.send(frame(FrameType.DATA, PADDED, 1, Buffer.concat([Buffer.of(255), Buffer.of(7), Buffer.alloc(255)])));
    }
    await peer.ping();
    expect(streams[0]?.recorder.bytes).toBe(1000); // 257,000 bytes through a window of 65,535
  });

  test('puts a header block together from CONTINUATION frames', async () => {
    const { peer, streams } = bench('server');
    const whole = block(REQUEST);
    peer.send(
      frame(FrameType.HEADERS, END_STREAM, 1, whole.subarray(0, 3)),
      frame(FrameType.CONTINUATION, 0, 1, whole.subarray(3, 10)),
      frame(FrameType.CONTINUATION, END_HEADERS, 1, whole.subarray(10)),
    );
    await peer.ping();
    expect(streams[0]?.headers).toEqual(REQUEST);
  });

  test('ignores PRIORITY and unknown frames, and settings that it does not know', async () => {
    const { peer, streams } = bench('server', { settings: [[0x99, 1]] });
    peer.send(
      frame(FrameType.PRIORITY, 0, 5, Buffer.alloc(5)),
      frame(0x42, 0xff, 77, Buffer.alloc(10)),
      headersFrame(7),
    );
    await peer.ping();
    expect(streams).toHaveLength(1);
  });

  test('sends long header lists in CONTINUATION frames', async () => {
    const { peer, streams } = bench('server');
    peer.send(headersFrame(1, REQUEST, END_STREAM));
    await peer.ping();
    streams[0]?.stream.sendHeaders(list([':status', '200'], ['x', 'y'.repeat(40_000)]), true);
    await peer.frame(({ type, flags }) => type === FrameType.CONTINUATION && (flags & END_HEADERS) !== 0);
    const fragments = peer.frames.filter(({ type }) => type === FrameType.HEADERS || type === FrameType.CONTINUATION);
    expect(fragments).toHaveLength(3);
    expect(peer.decode(Buffer.concat(fragments.map(({ payload }) => payload)))[1]?.[1]).toHaveLength(40_000);
  });

  test('has its peer wait at its window, and gives credit only for what was consumed', async () => {
    const { peer, streams } = bench('server', { consume: false, limits: { streamWindowBytes: 65_535 } });
    peer.send(headersFrame(1), ...[1, 2, 3, 4].map(() => dataFrame(1, 16_000)));
    await peer.ping();
    expect(peer.frames.some((one) => one.type === FrameType.WINDOW_UPDATE && one.streamId === 1)).toBe(false);
    streams[0]?.stream.consumed(40_000);
    const update = await peer.frame((one) => one.type === FrameType.WINDOW_UPDATE && one.streamId === 1);
    expect(update.payload.readUInt32BE()).toBe(40_000);
    peer.send(dataFrame(1, 16_000), dataFrame(1, 16_000), dataFrame(1, 16_000));
    expect(codeOf(await peer.reset(1))).toBe(ErrorCode.FLOW_CONTROL_ERROR);
    expect(streams[0]?.recorder.bytes).toBe(6 * 16_000);
  });

  test('counts the data of reset streams on the connection, and gives it back', async () => {
    const { peer, streams } = bench('server', { consume: false, limits: { connectionWindowBytes: 100_000 } });
    for (let id = 1; id < 200; id += 2) {
      peer.send(headersFrame(id), dataFrame(id, 16_000));
      await peer.ping();
      if (id % 4 === 1) streams.at(-1)?.stream.reset(ErrorCode.CANCEL);
      else peer.send(rst(id, ErrorCode.CANCEL));
      peer.send(dataFrame(id, 16_000)); // was on its way
    }
    await peer.ping(); // 3.2 MB through a window of 100 kB
  });

  test('keeps the rest of the connection going when stalled streams hold most of its window', async () => {
    const { peer, streams } = bench('server', {
      consume: false,
      limits: { connectionWindowBytes: 200_000, streamWindowBytes: 65_535 },
    });
    for (const id of [1, 3]) peer.send(headersFrame(id), ...[1, 2, 3, 4].map(() => dataFrame(id, 16_000)));
    peer.send(headersFrame(5));
    await peer.ping();
    // 128,000 bytes are held; less than half the window is left, and it has to go round.
    for (let i = 0; i < 20; i += 1) {
      peer.send(dataFrame(5, 16_000));
      await peer.ping();
      streams[2]?.stream.consumed(16_000);
    }
    await peer.ping();
    const credit = peer.frames.filter((one) => one.type === FrameType.WINDOW_UPDATE && one.streamId === 0);
    const allowed = 65_535 + credit.reduce((sum, { payload }) => sum + payload.readUInt32BE(), 0);
    expect(allowed).toBeGreaterThan(128_000 + 320_000);
  });

  test('stops its credit for the connection when nobody consumes', async () => {
    const { peer, closed } = bench('server', { consume: false, limits: { connectionWindowBytes: 100_000 } });
    for (let id = 1; id < 20; id += 2) peer.send(headersFrame(id), dataFrame(id, 16_000));
    expect(codeOf(await peer.goaway())).toBe(ErrorCode.FLOW_CONTROL_ERROR);
    await closed;
  });

  test('refuses streams beyond its limit, and takes new ones when others have ended', async () => {
    const { peer, streams } = bench('server', { limits: { maxConcurrentStreams: 2 } });
    peer.send(headersFrame(1), headersFrame(3), headersFrame(5));
    expect(codeOf(await peer.reset(5))).toBe(ErrorCode.REFUSED_STREAM);
    peer.send(rst(1, ErrorCode.CANCEL), headersFrame(7));
    await peer.ping();
    expect(streams).toHaveLength(3);
  });

  test('goes in two steps: GOAWAY of nothing, PING, GOAWAY of the last stream, and closes after its answer', async () => {
    const { connection, peer, streams, closed } = bench('server');
    peer.send(headersFrame(1, REQUEST, END_STREAM));
    await peer.ping();
    connection.close();
    expect((await peer.goaway()).payload.readUInt32BE()).toBe(2 ** 31 - 1);
    const ping = await peer.frame(({ type, flags }) => type === FrameType.PING && flags === 0);
    peer.send(headersFrame(3, REQUEST, END_STREAM), frame(FrameType.PING, ACK, 0, ping.payload));
    await peer.frame(({ type, payload }) => type === FrameType.GOAWAY && payload.readUInt32BE() === 3);
    peer.send(headersFrame(5, REQUEST, END_STREAM)); // too late, and not answered
    await peer.ping();
    expect(streams).toHaveLength(2);
    for (const { stream } of streams) stream.sendHeaders(OK, true);
    expect(await closed).toMatchObject({ by: 'us', code: 0 });
    await expect.poll(() => peer.ended).toBe(true);
  });

  test('asks the client to stop when it has answered before the request was complete', async () => {
    const { peer, streams } = bench('server');
    peer.send(headersFrame(1));
    await peer.ping();
    streams[0]?.stream.sendHeaders(OK, false);
    streams[0]?.stream.sendData(Buffer.alloc(100_000), true);
    streams[0]?.stream.resetWhenSent(ErrorCode.NO_ERROR);
    await peer.ping();
    expect(typesOf(peer.frames)).not.toContain(FrameType.RST_STREAM);
    peer.send(windowUpdate(0, 100_000), windowUpdate(1, 100_000));
    expect(codeOf(await peer.reset(1))).toBe(ErrorCode.NO_ERROR);
    expect(peer.dataBytes(1)).toBe(100_000);
  });

  test('resets the stream whose handler throws, and no other', async () => {
    const { peer, errors } = bench(
      'server',
      {},
      {
        onStream: () => {
          throw new Error('bug');
        },
      },
    );
    peer.send(headersFrame(1));
    expect(codeOf(await peer.reset(1))).toBe(ErrorCode.INTERNAL_ERROR);
    expect(errors).toHaveLength(1);
    await peer.ping();
  });
});

describe('a client', () => {
  const answer = (id: number, flags: number = END_STREAM) => headersFrame(id, OK, flags);

  test('sends its preface first and its streams in order', async () => {
    const { connection, peer } = bench('client');
    const recorder = new Recorder();
    recorder.stream = connection.open(recorder);
    recorder.stream.sendHeaders(REQUEST, true);
    const request = await peer.frame(({ type }) => type === FrameType.HEADERS);
    expect(request.streamId).toBe(1);
    expect(peer.decode(request.payload)).toEqual(REQUEST.map(({ name, value }) => [name, value]));
    peer.send(
      headersFrame(1, list([':status', '103'])),
      answer(1, 0),
      dataFrame(1, 5),
      headersFrame(1, STATUS, END_STREAM),
    );
    await peer.ping();
    expect(recorder.seen).toEqual([
      'headers :status=103',
      'headers :status=200 content-type=application/grpc',
      'trailers grpc-status=0',
    ]);
  });

  test('honours the windows of its peer, which may become negative, and takes up when they open', async () => {
    const { connection, peer } = bench('client', { settings: [[Setting.INITIAL_WINDOW_SIZE, 1000]] });
    const recorder = new Recorder();
    await peer.ping();
    const stream = connection.open(recorder);
    stream.sendHeaders(REQUEST, false);
    stream.sendData(Buffer.alloc(5000, 'a'), true);
    await peer.ping();
    expect([peer.dataBytes(1), recorder.taken, stream.queuedBytes]).toEqual([1000, 1000, 4000]);
    peer.send(settingsFrame([[Setting.INITIAL_WINDOW_SIZE, 0]]), windowUpdate(1, 1000)); // −1000 + 1000
    await peer.ping();
    expect(peer.dataBytes(1)).toBe(1000);
    peer.send(windowUpdate(1, 1));
    await peer.ping();
    expect(peer.dataBytes(1)).toBe(1001);
    peer.send(settingsFrame([[Setting.INITIAL_WINDOW_SIZE, 100_000]]));
    await peer.ping();
    expect(peer.dataBytes(1)).toBe(5000);
    expect(recorder.taken).toBe(5000);
    expect(recorder.seen).toEqual([]);
    expect(stream.ended).toBe(true);
  });

  test('shares the window of the connection between its streams', async () => {
    const { connection, peer } = bench('client', { settings: [[Setting.INITIAL_WINDOW_SIZE, 1_000_000]] });
    await peer.ping();
    for (let i = 0; i < 4; i += 1) {
      const stream = connection.open(new Recorder());
      stream.sendHeaders(REQUEST, false);
      stream.sendData(Buffer.alloc(100_000), true);
    }
    await peer.ping();
    const sent = () => [1, 3, 5, 7].map((id) => peer.dataBytes(id));
    expect(sent()).toEqual([65_535, 0, 0, 0]);
    peer.send(windowUpdate(0, 1_000_000));
    await peer.ping();
    expect(sent()).toEqual([100_000, 100_000, 100_000, 100_000]);
    expect(connection.queuedBytes).toBe(0);
  });

  test('keeps streams above the limit of its peer waiting, with all that they have to say', async () => {
    const { connection, peer } = bench('client', { settings: [[Setting.MAX_CONCURRENT_STREAMS, 1]] });
    await peer.ping();
    const recorders = [1, 2, 3].map(() => new Recorder());
    const streams = recorders.map((recorder) => connection.open(recorder));
    for (const stream of streams) {
      stream.sendHeaders(REQUEST, false);
      stream.sendData(Buffer.from('abc'), false);
      stream.sendTrailers(list(['x', 'y']));
    }
    streams[1]?.reset(ErrorCode.CANCEL); // never sent, so nothing is
    await peer.ping();
    expect(peer.frames.filter(({ type }) => type === FrameType.HEADERS)).toHaveLength(2);
    peer.send(answer(1));
    await peer.frame((one) => one.streamId === 3 && (one.flags & END_STREAM) !== 0);
    expect(peer.dataBytes(3)).toBe(3);
    expect(typesOf(peer.frames)).not.toContain(FrameType.RST_STREAM);
  });

  test('lets streams finish that GOAWAY names, and ends the others as unprocessed', async () => {
    const { connection, peer, closed } = bench('client', { settings: [[Setting.MAX_CONCURRENT_STREAMS, 2]] });
    await peer.ping();
    const recorders = [1, 2, 3].map(() => new Recorder());
    for (const recorder of recorders) connection.open(recorder).sendHeaders(REQUEST, true);
    peer.send(goawayFrame(2 ** 31 - 1, 0), frame(FrameType.PING, 0, 0, Buffer.alloc(8)));
    await peer.frame(({ type, flags }) => type === FrameType.PING && flags === ACK);
    expect(connection.usable).toBe(false);
    peer.send(goawayFrame(1, 0));
    await peer.ping();
    expect(recorders.map(({ seen }) => seen)).toEqual([[], ['reset 7 unprocessed'], ['reset 7 unprocessed']]);
    peer.send(answer(1));
    expect(await closed).toMatchObject({ by: 'peer' });
    expect(recorders[0]?.seen).toEqual(['headers :status=200 content-type=application/grpc end']);
  });

  test('tells its streams when the connection is gone', async () => {
    const { connection, peer, closed } = bench('client');
    await peer.ping();
    const recorder = new Recorder();
    connection.open(recorder).sendHeaders(REQUEST, true);
    await peer.frame(({ type }) => type === FrameType.HEADERS);
    peer.socket.end();
    expect(await closed).toMatchObject({ by: 'socket' });
    expect(recorder.seen).toEqual(['reset 8 connection']);
  });

  test('passes RST_STREAM on with its code; REFUSED_STREAM means that nothing was done', async () => {
    const { connection, peer } = bench('client');
    await peer.ping();
    const recorders = [1, 2].map(() => new Recorder());
    for (const recorder of recorders) connection.open(recorder).sendHeaders(REQUEST, true);
    peer.send(rst(1, ErrorCode.CANCEL), rst(3, ErrorCode.REFUSED_STREAM));
    await peer.ping();
    expect(recorders.map(({ seen }) => seen)).toEqual([['reset 8 peer'], ['reset 7 unprocessed']]);
  });

  test('writes what one turn brings in one go', async () => {
    const { connection, peer } = bench('client');
    await peer.ping();
    const chunks: number[] = [];
    peer.socket.on('data', (chunk: Buffer) => chunks.push(chunk.length));
    for (let i = 0; i < 10; i += 1) {
      const stream = connection.open(new Recorder());
      stream.sendHeaders(REQUEST, false);
      stream.sendData(Buffer.alloc(100), true);
    }
    await peer.frame(({ streamId, type }) => streamId === 19 && type === FrameType.DATA);
    expect(chunks).toHaveLength(1);
  });

  test.each([
    ['DATA before HEADERS', dataFrame(1, 1)],
    ['headers without a status', headersFrame(1, STATUS)],
    ['an interim response that ends', headersFrame(1, list([':status', '103']), END_STREAM)],
    ['two final responses', Buffer.concat([headersFrame(1, OK), headersFrame(1, OK)])],
  ])('resets a stream for %s', async (_name, bytes) => {
    const { connection, peer } = bench('client');
    await peer.ping();
    const recorder = new Recorder();
    connection.open(recorder).sendHeaders(REQUEST, true);
    await peer.frame(({ type }) => type === FrameType.HEADERS);
    peer.send(bytes);
    expect(codeOf(await peer.reset(1))).toBe(ErrorCode.PROTOCOL_ERROR);
    expect(recorder.seen.at(-1)).toBe('reset 1 protocol');
    await peer.ping();
  });

  test.each([
    ['a stream that was never opened', headersFrame(1, OK)],
    ['a stream of the server', headersFrame(2, OK)],
    ['PUSH_PROMISE', frame(FrameType.PUSH_PROMISE, END_HEADERS, 1, Buffer.alloc(10))],
    ['ENABLE_PUSH', settingsFrame([[Setting.ENABLE_PUSH, 1]])],
  ])('ends the connection for %s', async (_name, bytes) => {
    const { peer, closed } = bench('client');
    peer.send(bytes);
    expect(await closed).toMatchObject({ by: 'us', code: ErrorCode.PROTOCOL_ERROR });
  });
});

const { PROTOCOL_ERROR, FRAME_SIZE_ERROR, FLOW_CONTROL_ERROR, COMPRESSION_ERROR } = ErrorCode;

test.each<[string, number, Buffer]>([
  ['a frame beyond MAX_FRAME_SIZE', FRAME_SIZE_ERROR, frame(0x42, 0, 0, Buffer.alloc(16_385))],
  ['DATA on stream 0', PROTOCOL_ERROR, dataFrame(0, 1)],
  ['DATA on an idle stream', PROTOCOL_ERROR, dataFrame(1, 1)],
  ['HEADERS on stream 0', PROTOCOL_ERROR, headersFrame(0)],
  ['HEADERS on an even stream', PROTOCOL_ERROR, headersFrame(2)],
  [
    'HEADERS with more padding than payload',
    PROTOCOL_ERROR,
    frame(FrameType.HEADERS, END_HEADERS | PADDED, 1, Buffer.of(9, 1)),
  ],
  [
    'DATA with more padding than payload',
    PROTOCOL_ERROR,
    Buffer.concat([headersFrame(1), frame(FrameType.DATA, PADDED, 1, Buffer.of(2, 0))]),
  ],
  [
    'padded DATA without a length',
    FRAME_SIZE_ERROR,
    Buffer.concat([headersFrame(1), frame(FrameType.DATA, PADDED, 1, empty)]),
  ],
  [
    'a frame inside a header block',
    PROTOCOL_ERROR,
    Buffer.concat([frame(FrameType.HEADERS, 0, 1, block(REQUEST)), frame(FrameType.PING, 0, 0, Buffer.alloc(8))]),
  ],
  [
    'DATA inside a header block',
    PROTOCOL_ERROR,
    Buffer.concat([headersFrame(1), frame(FrameType.HEADERS, 0, 3, block(REQUEST)), dataFrame(1, 1)]),
  ],
  [
    'CONTINUATION of another stream',
    PROTOCOL_ERROR,
    Buffer.concat([frame(FrameType.HEADERS, 0, 1, block(REQUEST)), frame(FrameType.CONTINUATION, 0, 3, empty)]),
  ],
  ['CONTINUATION of nothing', PROTOCOL_ERROR, frame(FrameType.CONTINUATION, END_HEADERS, 1, empty)],
  ['a header block that is none', COMPRESSION_ERROR, frame(FrameType.HEADERS, END_HEADERS, 1, Buffer.of(0xff, 0xff))],
  ['RST_STREAM of an idle stream', PROTOCOL_ERROR, rst(1, 0)],
  [
    'RST_STREAM of the wrong length',
    FRAME_SIZE_ERROR,
    Buffer.concat([headersFrame(1), frame(FrameType.RST_STREAM, 0, 1, Buffer.alloc(3))]),
  ],
  ['PRIORITY of stream 0', PROTOCOL_ERROR, frame(FrameType.PRIORITY, 0, 0, Buffer.alloc(5))],
  ['SETTINGS of a stream', PROTOCOL_ERROR, frame(FrameType.SETTINGS, 0, 1, empty)],
  ['SETTINGS of the wrong length', FRAME_SIZE_ERROR, frame(FrameType.SETTINGS, 0, 0, Buffer.alloc(5))],
  ['an acknowledgement with settings', FRAME_SIZE_ERROR, frame(FrameType.SETTINGS, ACK, 0, Buffer.alloc(6))],
  ['INITIAL_WINDOW_SIZE above 2³¹−1', FLOW_CONTROL_ERROR, settingsFrame([[Setting.INITIAL_WINDOW_SIZE, 2 ** 31]])],
  ['a MAX_FRAME_SIZE too small', PROTOCOL_ERROR, settingsFrame([[Setting.MAX_FRAME_SIZE, 16_383]])],
  ['a MAX_FRAME_SIZE too large', PROTOCOL_ERROR, settingsFrame([[Setting.MAX_FRAME_SIZE, 2 ** 24]])],
  ['a strange ENABLE_PUSH', PROTOCOL_ERROR, settingsFrame([[Setting.ENABLE_PUSH, 2]])],
  ['PING of a stream', PROTOCOL_ERROR, frame(FrameType.PING, 0, 1, Buffer.alloc(8))],
  ['PING of the wrong length', FRAME_SIZE_ERROR, frame(FrameType.PING, 0, 0, Buffer.alloc(7))],
  ['GOAWAY of a stream', PROTOCOL_ERROR, frame(FrameType.GOAWAY, 0, 1, Buffer.alloc(8))],
  ['GOAWAY of the wrong length', FRAME_SIZE_ERROR, frame(FrameType.GOAWAY, 0, 0, Buffer.alloc(7))],
  ['WINDOW_UPDATE by nothing', PROTOCOL_ERROR, windowUpdate(0, 0)],
  ['WINDOW_UPDATE of an idle stream', PROTOCOL_ERROR, windowUpdate(1, 1)],
  ['WINDOW_UPDATE of the wrong length', FRAME_SIZE_ERROR, frame(FrameType.WINDOW_UPDATE, 0, 0, Buffer.alloc(5))],
  ['a window beyond 2³¹−1', FLOW_CONTROL_ERROR, Buffer.concat([windowUpdate(0, 2 ** 31 - 1)])],
  [
    'a window pushed beyond 2³¹−1 by SETTINGS',
    FLOW_CONTROL_ERROR,
    Buffer.concat([
      headersFrame(1),
      windowUpdate(1, 2 ** 31 - 65_536),
      settingsFrame([[Setting.INITIAL_WINDOW_SIZE, 70_000]]),
    ]),
  ],
  ['PUSH_PROMISE', PROTOCOL_ERROR, frame(FrameType.PUSH_PROMISE, END_HEADERS, 1, Buffer.alloc(10))],
])('a client that sends %s loses its connection, with code %i', async (_name, code, bytes) => {
  const { peer, closed } = bench('server');
  peer.send(bytes);
  expect(codeOf(await peer.goaway())).toBe(code);
  expect(await closed).toMatchObject({ by: 'us', code });
  await expect.poll(() => peer.ended).toBe(true);
});

test.each<[string, number, Buffer]>([
  [
    'no path',
    PROTOCOL_ERROR,
    headersFrame(
      1,
      REQUEST.filter(({ name }) => name !== ':path'),
    ),
  ],
  ['two methods', PROTOCOL_ERROR, headersFrame(1, [...list([':method', 'POST']), ...REQUEST])],
  ['a pseudo-header after others', PROTOCOL_ERROR, headersFrame(1, [...list(['x', 'y']), ...REQUEST])],
  ['an unknown pseudo-header', PROTOCOL_ERROR, headersFrame(1, [...list([':x', 'y']), ...REQUEST])],
  ['an upper-case name', PROTOCOL_ERROR, headersFrame(1, [...REQUEST, ...list(['X', 'y'])])],
  ['an empty name', PROTOCOL_ERROR, headersFrame(1, [...REQUEST, ...list(['', 'y'])])],
  ['a line break in a value', PROTOCOL_ERROR, headersFrame(1, [...REQUEST, ...list(['x', 'a\r\nb'])])],
  ['a field of the connection', PROTOCOL_ERROR, headersFrame(1, [...REQUEST, ...list(['connection', 'close'])])],
  [
    'a list beyond the limit',
    ErrorCode.ENHANCE_YOUR_CALM,
    headersFrame(1, [...REQUEST, ...list(['x', 'y'.repeat(2000)])]),
  ],
  ['headers after headers', PROTOCOL_ERROR, Buffer.concat([headersFrame(1), headersFrame(1)])],
  [
    'pseudo-headers in trailers',
    PROTOCOL_ERROR,
    Buffer.concat([headersFrame(1), headersFrame(1, REQUEST, END_STREAM)]),
  ],
  [
    'DATA after its end',
    ErrorCode.STREAM_CLOSED,
    Buffer.concat([headersFrame(1, REQUEST, END_STREAM), dataFrame(1, 1)]),
  ],
  [
    'HEADERS after its end',
    ErrorCode.STREAM_CLOSED,
    Buffer.concat([headersFrame(1, REQUEST, END_STREAM), headersFrame(1, STATUS, END_STREAM)]),
  ],
  ['WINDOW_UPDATE by nothing', PROTOCOL_ERROR, Buffer.concat([headersFrame(1), windowUpdate(1, 0)])],
  ['a window beyond 2³¹−1', FLOW_CONTROL_ERROR, Buffer.concat([headersFrame(1), windowUpdate(1, 2 ** 31 - 1)])],
  [
    'PRIORITY of the wrong length',
    FRAME_SIZE_ERROR,
    Buffer.concat([headersFrame(1), frame(FrameType.PRIORITY, 0, 1, Buffer.alloc(4))]),
  ],
])('a stream with %s is reset, with code %i, and the connection goes on', async (_name, code, bytes) => {
  const { peer } = bench('server', { limits: { headerListBytes: 2000 } });
  peer.send(bytes);
  expect(codeOf(await peer.reset(1))).toBe(code);
  peer.send(headersFrame(3));
  await peer.ping();
});

test('frames that come late for a closed stream are ignored', async () => {
  const { peer, streams } = bench('server');
  peer.send(headersFrame(1, REQUEST, END_STREAM));
  await peer.ping();
  streams[0]?.stream.sendHeaders(OK, true);
  peer.send(windowUpdate(1, 1), rst(1, 8), dataFrame(1, 10), headersFrame(1, STATUS, END_STREAM));
  peer.send(frame(FrameType.PRIORITY, 0, 1, Buffer.alloc(5)));
  await peer.ping();
  expect(streams).toHaveLength(1);
});

test.each([
  ['is not HTTP/2', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
  ['begins with another frame', Buffer.concat([PREFACE, frame(FrameType.PING, 0, 0, Buffer.alloc(8))])],
  ['begins with an acknowledgement', Buffer.concat([PREFACE, frame(FrameType.SETTINGS, ACK, 0, empty)])],
  ['begins with DATA', Buffer.concat([PREFACE, dataFrame(1, 1)])],
])('what %s is not served', async (_name, bytes) => {
  const { peer, closed } = bench('server', { greet: false });
  peer.send(bytes);
  expect(await closed).toMatchObject({ by: 'us', code: PROTOCOL_ERROR });
});

test('a client that says nothing is not waited for without end', async () => {
  const { closed, peer } = bench('server', { greet: false, limits: { handshakeTimeoutMs: 20 } });
  peer.send(PREFACE.subarray(0, 5));
  expect(await closed).toMatchObject({ code: ErrorCode.SETTINGS_TIMEOUT });
});

test('a client that does not acknowledge the PING of a graceful end is not waited for either', async () => {
  const { connection, closed, peer } = bench('server');
  await peer.ping();
  connection.close();
  await delay(0);
  expect(await closed).toMatchObject({ by: 'us', code: 0 });
}, 3000);

test('number32Frame writes what it is given', () => {
  expect(number32Frame(FrameType.WINDOW_UPDATE, 3, 0x01020304).toString('hex')).toBe('00000408000000000301020304');
});

test('an acknowledgement of a PING goes with what is written next, and by itself when nothing is', async () => {
  const { peer, streams } = bench('server');
  peer.send(headersFrame(1, REQUEST, Flag.END_STREAM));
  await vi.waitFor(() => expect(streams).toHaveLength(1));
  const chunks: Buffer[] = [];
  peer.socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  peer.send(frame(FrameType.PING, 0, 0, Buffer.from('measured')));
  await new Promise((resolve) => setImmediate(resolve));
  streams[0]?.stream.sendHeaders(list([':status', '200']), true);
  await vi.waitFor(() => expect(chunks).toHaveLength(1));
  expect(chunks[0]?.includes('measured')).toBe(true); // one write
  await peer.ping(); // nothing else is written
});

test('a flood of acknowledgements and frames fills slab after slab, and nothing of it is lost', async () => {
  const { peer } = bench('server');
  const count = 5000;
  peer.send(
    ...Array.from({ length: count }, (_, i) => [frame(FrameType.PING, 0, 0, pingOf(i)), settingsFrame([])]).flat(),
  );
  await peer.frame(({ type, payload }) => type === FrameType.PING && payload.equals(pingOf(count - 1)));
  const acks = peer.frames.filter(({ type, flags }) => type === FrameType.PING && flags === Flag.ACK);
  expect(acks.map(({ payload }) => payload.readUInt32BE(4))).toEqual(Array.from({ length: count }, (_, i) => i));
  // One more for the first SETTINGS.
  expect(peer.frames.filter(({ type, flags }) => type === FrameType.SETTINGS && flags === Flag.ACK)).toHaveLength(
    count + 1,
  );
});

function pingOf(number: number): Buffer {
  const payload = Buffer.alloc(8);
  payload.writeUInt32BE(number, 4);
  return payload;
}
