import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { ConnectionHandler } from './connection.ts';
import type { Fields } from './fields.ts';
import { ErrorCode, Flag, FrameType, goawayFrame, Setting } from './frames.ts';
import type { ConnectionLimits } from './options.ts';
import {
  bench,
  codeOf,
  dataFrame,
  headersFrame,
  list,
  type RawPeer,
  REQUEST,
  rst,
  windowUpdate,
} from './raw-peer.fixture.ts';
import { type CallEnd, type Loss, type Progress, Splice, type SpliceObserver } from './splice.ts';

const { END_STREAM } = Flag;
const OK = list([':status', '200'], ['content-type', 'application/grpc']);
const STATUS = list(['grpc-status', '0'], ['grpc-message', '']);
const UNAVAILABLE = list(['grpc-status', '14'], ['grpc-message', 'gone']);

/** A client, the relay, a server: both ends are raw. */
function relay(
  options: { limits?: Partial<ConnectionLimits>; settings?: [number, number][]; hold?: boolean; status?: Fields } = {},
) {
  const up = bench('client', { settings: options.settings ?? [] });
  const seen: string[] = [];
  const ends: { end: CallEnd; progress: Progress }[] = [];
  const losses: Loss[] = [];
  const splices: Splice[] = [];
  const closed: number[] = [];
  const observer: SpliceObserver = {
    onLoss: (_splice, _progress, loss) => {
      losses.push(loss);
      return options.status;
    },
    onProgress: (_splice, progress) => seen.push(progress),
    onEnd: (_splice, end, progress) => ends.push({ end, progress }),
    onClosed: ({ down }) => closed.push(down.id),
  };
  const handler: Partial<ConnectionHandler> = {
    onStream: (stream, headers, endStream) => {
      const splice = new Splice(stream, headers, endStream, observer);
      splices.push(splice);
      if (options.hold !== true) splice.forward(up.connection);
      return splice;
    },
  };
  const down = bench('server', { limits: options.limits ?? {} }, handler);
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 2; i += 1) {
      await down.peer.ping();
      await up.peer.ping();
    }
  };
  return { client: down.peer, server: up.peer, up, down, seen, ends, losses, splices, closed, settle, handler };
}

const block = (peer: RawPeer, streamId: number, nth = 0) => {
  const frames = peer.frames.filter((one) => one.type === FrameType.HEADERS && one.streamId === streamId);
  const payload = frames[nth]?.payload;
  return payload && peer.decode(payload);
};

test('everything crosses as it came, but for the authority', async () => {
  const { client, server, settle, seen, ends } = relay();
  await settle();
  const more = list(['x', '1'], ['k-bin', 'AAE'], ['x', '2'], ['grpc-timeout', '1234567m'], ['y', 'Ã¼']);
  client.send(headersFrame(1, [...REQUEST, ...more]), dataFrame(1, Buffer.from('hello')), dataFrame(1, 0, END_STREAM));
  await settle();
  expect(block(server, 1)).toEqual(
    [...REQUEST, ...more].map(({ name, value }) => [name, name === ':authority' ? 'localhost' : value]),
  );
  expect(server.dataBytes(1)).toBe(5);
  server.send(headersFrame(1, OK), dataFrame(1, 70), headersFrame(1, STATUS, END_STREAM));
  await settle();
  expect([block(client, 1, 0), block(client, 1, 1)]).toEqual(
    [OK, STATUS].map((all) => all.map(({ name, value }) => [name, value])),
  );
  expect(client.dataBytes(1)).toBe(70);
  expect(seen).toEqual(['forwarded', 'answering', 'answered']);
  expect(ends).toEqual([{ end: { kind: 'answered', status: '0' }, progress: 'answering' }]);
});

test('a request without an authority gets one', async () => {
  const { client, server, settle } = relay();
  client.send(
    headersFrame(
      1,
      REQUEST.filter(({ name }) => name !== ':authority'),
      END_STREAM,
    ),
  );
  await settle();
  expect(block(server, 1)?.[0]).toEqual([':authority', 'localhost']);
});

test('trailers-only stays trailers-only, and trailers of a request cross, too', async () => {
  const { client, server, settle, ends } = relay();
  client.send(headersFrame(1), headersFrame(1, list(['x', 'y']), END_STREAM));
  await settle();
  expect(block(server, 1, 1)).toEqual([['x', 'y']]);
  server.send(headersFrame(1, [...OK, ...list(['grpc-status', '5'])], END_STREAM));
  await settle();
  expect(client.frames.filter(({ type }) => type === FrameType.HEADERS).map(({ flags }) => flags)).toEqual([5]);
  expect(ends[0]?.end).toEqual({ kind: 'answered', status: '5' });
});

test('what comes before there is a connection is kept and sent in order', async () => {
  const { client, server, settle, splices, up } = relay({ hold: true });
  client.send(
    headersFrame(1),
    dataFrame(1, Buffer.from('ab')),
    dataFrame(1, 16_000),
    headersFrame(1, list(['x', 'y']), END_STREAM),
  );
  client.send(headersFrame(3), dataFrame(3, Buffer.from('cd'), END_STREAM), headersFrame(5, REQUEST, END_STREAM));
  await settle();
  for (const splice of splices) splice.forward(up.connection);
  await settle();
  expect([server.dataBytes(1), server.dataBytes(3), server.dataBytes(5)]).toEqual([16_002, 2, 0]);
  expect(block(server, 1, 1)).toEqual([['x', 'y']]);
  expect(
    server.frames.filter((one) => (one.flags & END_STREAM) !== 0 && one.streamId > 0).map((one) => one.streamId),
  ).toEqual([1, 3, 5]);
});

test('a call that is held may be failed, or cancelled by the client, and nothing reaches the server', async () => {
  const { client, server, settle, splices, ends } = relay({ hold: true });
  client.send(headersFrame(1), dataFrame(1, 10), headersFrame(3), rst(3, ErrorCode.CANCEL));
  await settle();
  splices[0]?.fail(UNAVAILABLE);
  await settle();
  expect(block(client, 1)).toEqual([...OK, ...UNAVAILABLE].map(({ name, value }) => [name, value]));
  expect(codeOf(await client.reset(1))).toBe(ErrorCode.NO_ERROR);
  expect(ends).toEqual([
    { end: { kind: 'cancelled', code: 8, cause: 'peer' }, progress: 'waiting' },
    { end: { kind: 'failed' }, progress: 'waiting' },
  ]);
  expect(server.frames.filter(({ type }) => type === FrameType.HEADERS)).toEqual([]);
});

test('a slow reader makes the server wait: no more is credited than was taken', async () => {
  const { client, server, settle, down } = relay();
  client.send(headersFrame(1, REQUEST, END_STREAM));
  await settle();
  server.send(headersFrame(1, OK));
  const window = 256 * 1024;
  for (let sent = 0; sent < window; sent += 16_384) server.send(dataFrame(1, 16_384));
  await settle();
  expect(client.dataBytes(1)).toBe(65_535);
  expect(down.connection.queuedBytes).toBe(window - 65_535);
  const updates = () => server.frames.filter((one) => one.type === FrameType.WINDOW_UPDATE && one.streamId === 1);
  const credit = () => updates().reduce((sum, { payload }) => sum + payload.readUInt32BE(), 0);
  expect(credit()).toBeLessThanOrEqual(65_535);
  client.send(windowUpdate(0, 1_000_000), windowUpdate(1, 1_000_000));
  await settle();
  expect(client.dataBytes(1)).toBe(window);
  expect(credit()).toBeGreaterThan(window / 2);
  expect(down.connection.queuedBytes).toBe(0);
});

test('a client that stops reading holds up no other', async () => {
  const one = relay({ limits: { queuedBytes: 3_000_000 } });
  const other = bench('server', {}, one.handler);
  await one.settle();
  // Twenty answers of a full window each, which the first client never takes: more than it may let pile up.
  for (let id = 1; id < 40; id += 2) one.client.send(headersFrame(id, REQUEST, END_STREAM));
  await one.settle();
  for (let id = 1; id < 40; id += 2) {
    one.server.send(headersFrame(id, OK));
    for (let i = 0; i < 16; i += 1) one.server.send(dataFrame(id, 16_384));
    await one.server.ping();
  }
  expect(await one.down.closed).toMatchObject({ code: ErrorCode.ENHANCE_YOUR_CALM });
  other.peer.send(headersFrame(1, REQUEST, END_STREAM));
  await other.peer.ping();
  await one.server.ping();
  one.server.send(headersFrame(41, OK), dataFrame(41, 10_000), headersFrame(41, STATUS, END_STREAM));
  await other.peer.frame((seen) => seen.type === FrameType.HEADERS && (seen.flags & END_STREAM) !== 0);
  expect(other.peer.dataBytes(1)).toBe(10_000);
  expect(one.ends.filter(({ end }) => end.kind === 'cancelled')).toHaveLength(20);
});

describe('cancelling', () => {
  test('by the client crosses with its code and drops what is queued', async () => {
    const { client, server, settle, ends } = relay();
    client.send(headersFrame(1));
    await settle();
    server.send(headersFrame(1, OK), dataFrame(1, 16_384));
    client.send(rst(1, ErrorCode.CANCEL));
    await settle();
    expect(codeOf(await server.reset(1))).toBe(ErrorCode.CANCEL);
    expect(ends).toMatchObject([{ end: { kind: 'cancelled', code: 8 } }]);
  });

  test('by a lost client connection reaches the server', async () => {
    const { client, server, settle } = relay();
    client.send(headersFrame(1));
    await settle();
    client.socket.destroy();
    expect(codeOf(await server.reset(1))).toBe(ErrorCode.CANCEL);
    await server.ping();
  });

  test('by the server, NO_ERROR after the whole answer: the answer arrives and the rest is not wanted', async () => {
    const { client, server, settle, ends } = relay();
    client.send(headersFrame(1));
    await settle();
    server.send(
      headersFrame(1, OK),
      dataFrame(1, 100),
      headersFrame(1, STATUS, END_STREAM),
      rst(1, ErrorCode.NO_ERROR),
    );
    await settle();
    expect(block(client, 1, 1)?.[0]).toEqual(['grpc-status', '0']);
    expect(codeOf(await client.reset(1))).toBe(ErrorCode.NO_ERROR);
    expect(ends).toMatchObject([{ end: { kind: 'answered' } }]);
  });
});

describe('a loss', () => {
  const LOSSES: [string, (server: RawPeer) => unknown, Loss][] = [
    ['a reset', (server) => server.send(rst(1, 11)), { kind: 'reset', code: 11 }],
    ['a reset with NO_ERROR', (server) => server.send(rst(1, 0)), { kind: 'no-status' }],
    ['a refusal', (server) => server.send(rst(1, 7)), { kind: 'unprocessed' }],
    ['GOAWAY below it', (server) => server.send(goawayFrame(0, 0)), { kind: 'unprocessed' }],
    ['the connection', (server) => server.socket.destroy(), { kind: 'connection' }],
    ['nonsense', (server) => server.send(headersFrame(1, STATUS), windowUpdate(0, 0)), { kind: 'protocol', code: 1 }],
  ];

  test.each(LOSSES)(
    'before the headers, by %s: trailers-only with the status of the observer',
    async (_name, lose, loss) => {
      const { client, server, down, ends, losses, settle } = relay({ status: UNAVAILABLE });
      client.send(headersFrame(1, REQUEST, END_STREAM));
      await settle();
      lose(server);
      await client.frame(({ type }) => type === FrameType.HEADERS);
      await delay(2);
      await client.ping();
      expect(losses).toEqual([loss]);
      expect(block(client, 1)).toEqual([...OK, ...UNAVAILABLE].map(({ name, value }) => [name, value]));
      expect(ends).toEqual([{ end: { kind: 'lost', loss }, progress: 'forwarded' }]);
      expect(down.connection.streams).toBe(0);
    },
  );

  test.each(LOSSES.slice(0, 5))(
    'after the headers, by %s: trailers with the status of the observer',
    async (_name, lose) => {
      const { client, server, settle, ends } = relay({ status: UNAVAILABLE });
      client.send(headersFrame(1, REQUEST, END_STREAM));
      await settle();
      server.send(headersFrame(1, OK), dataFrame(1, 10_000));
      await settle();
      lose(server);
      await client.frame(({ flags, streamId }) => streamId === 1 && (flags & END_STREAM) !== 0);
      expect(client.dataBytes(1)).toBe(10_000);
      expect(block(client, 1, 1)).toEqual(UNAVAILABLE.map(({ name, value }) => [name, value]));
      expect(ends[0]?.progress).toBe('answering');
    },
  );

  test('of the status: an answer that ends without one', async () => {
    const { client, server, settle, losses } = relay({ status: UNAVAILABLE });
    client.send(headersFrame(1, REQUEST, END_STREAM));
    await settle();
    server.send(headersFrame(1, OK), dataFrame(1, 10, END_STREAM));
    await settle();
    expect(losses).toEqual([{ kind: 'no-status' }]);
    expect(block(client, 1, 1)).toEqual(UNAVAILABLE.map(({ name, value }) => [name, value]));
  });

  test.each(LOSSES)('by %s crosses as a reset when the observer has no status', async (_name, lose, loss) => {
    const { client, server, settle } = relay();
    client.send(headersFrame(1, REQUEST, END_STREAM));
    await settle();
    lose(server);
    const code = 'code' in loss ? loss.code : loss.kind === 'unprocessed' ? ErrorCode.REFUSED_STREAM : ErrorCode.CANCEL;
    expect(codeOf(await client.reset(1))).toBe(code);
    await client.ping();
  });
});

test('a server of another kind, without gRPC, may end with its data', async () => {
  const { client, server, settle, ends } = relay({ settings: [[Setting.MAX_CONCURRENT_STREAMS, 1]] });
  client.send(headersFrame(1, REQUEST, END_STREAM));
  await settle();
  server.send(headersFrame(1, list([':status', '404'])), dataFrame(1, 10, END_STREAM));
  await settle();
  expect(client.dataBytes(1)).toBe(10);
  expect(ends).toMatchObject([{ end: { kind: 'answered', status: undefined } }]);
});

describe('a handler that throws ends its call on both sides', () => {
  const broken = () => {
    throw new Error('a bug');
  };

  test('on the side of the client', async () => {
    const { client, server, settle, splices, ends } = relay();
    client.send(headersFrame(1));
    await settle();
    Object.assign(splices[0] ?? {}, { onData: broken });
    client.send(dataFrame(1, 10));
    await settle();
    expect(codeOf(await client.reset(1))).toBe(ErrorCode.INTERNAL_ERROR);
    expect(codeOf(await server.reset(1))).toBe(ErrorCode.CANCEL);
    expect(ends.map(({ end }) => end.kind)).toEqual(['crashed']);
  });

  test('on the side of the runtime', async () => {
    const { client, server, settle, splices, ends } = relay();
    client.send(headersFrame(1));
    await settle();
    Object.assign(splices[0] ?? {}, { upHeaders: broken });
    server.send(headersFrame(1, OK));
    await settle();
    expect(codeOf(await server.reset(1))).toBe(ErrorCode.INTERNAL_ERROR);
    expect(codeOf(await client.reset(1))).toBe(ErrorCode.INTERNAL_ERROR);
    expect(ends.map(({ end }) => end.kind)).toEqual(['crashed']);
  });
});

test('the call is over when the client has all of it, and not before', async () => {
  const { client, server, settle, ends, closed } = relay();
  client.send(headersFrame(1, REQUEST, END_STREAM), headersFrame(3, REQUEST, END_STREAM));
  await settle();
  server.send(headersFrame(1, OK));
  for (let sent = 0; sent < 98_304; sent += 16_384) server.send(dataFrame(1, 16_384));
  server.send(headersFrame(1, STATUS, END_STREAM), headersFrame(3, [...OK, ...STATUS], END_STREAM));
  await settle();
  expect([ends.length, closed]).toEqual([2, [3]]);
  client.send(windowUpdate(0, 1_000_000), windowUpdate(1, 1_000_000));
  await settle();
  expect(closed).toEqual([3, 1]);
});

test('what has crossed is counted, and what ended the answer is there', async () => {
  const { client, server, settle, splices } = relay();
  client.send(headersFrame(1), dataFrame(1, 10), dataFrame(1, 5, END_STREAM));
  await settle();
  server.send(headersFrame(1, OK), dataFrame(1, 100), headersFrame(1, STATUS, END_STREAM));
  await settle();
  expect(splices[0]).toMatchObject({ bytesUp: 15, bytesDown: 100, last: STATUS.map(({ name }) => ({ name })) });
});
