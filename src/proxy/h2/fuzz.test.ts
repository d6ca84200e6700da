import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Flag, frame, PREFACE, settingsFrame, writeHead } from './frames.ts';
import { bench, block, dataFrame, headersFrame, list, REQUEST, rst, windowUpdate } from './raw-peer.fixture.ts';
import { FrameReader } from './reader.ts';
import { Splice } from './splice.ts';

const LIMIT = 200_000;
const LIMITS = { queuedBytes: LIMIT, streamWindowBytes: 65_535, connectionWindowBytes: 100_000, headerListBytes: 4000 };

/** Cuts bytes into chunks at the given places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const at = [0, ...places.map((place) => place % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  return at.slice(1).map((end, i) => Buffer.from(bytes.subarray(at[i] ?? 0, end)));
}

const id = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0, max: 12 }).map((n) => 2 * n + 1) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 2 ** 31 - 1 }) },
);
const small = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes));
const valid = fc.oneof(
  fc.tuple(id, fc.boolean()).map(([streamId, end]) => headersFrame(streamId, REQUEST, end ? Flag.END_STREAM : 0)),
  fc
    .tuple(id, fc.integer({ min: 0, max: 16_384 }), fc.boolean())
    .map(([streamId, n, end]) => dataFrame(streamId, n, end ? 1 : 0)),
  fc.tuple(id, fc.integer({ min: 0, max: 13 })).map(([streamId, code]) => rst(streamId, code)),
  fc
    .tuple(fc.oneof(id, fc.constant(0)), fc.integer({ min: 1, max: 70_000 }))
    .map(([streamId, n]) => windowUpdate(streamId, n)),
  fc
    .array(fc.tuple(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 0, max: 2 ** 17 })))
    .map((all) => settingsFrame(all)),
  id.map((streamId) => headersFrame(streamId, list(['x', 'y']), Flag.END_STREAM)),
  id.map((streamId) => frame(1, 0, streamId, block(REQUEST).subarray(0, 20))),
  fc
    .tuple(id, fc.boolean())
    .map(([streamId, end]) => frame(9, end ? Flag.END_HEADERS : 0, streamId, block(REQUEST).subarray(20))),
  small.map((payload) => frame(6, 0, 0, Buffer.concat([payload, Buffer.alloc(8)]).subarray(0, 8))),
);
const anything = fc
  .tuple(fc.integer({ min: 0, max: 11 }), fc.integer({ min: 0, max: 255 }), fc.oneof(id, fc.constant(0)), small)
  .map(([type, flags, streamId, payload]) => frame(type, flags, streamId, payload));
const mutated = fc.tuple(valid, fc.nat(), fc.integer({ min: 0, max: 255 })).map(([bytes, at, value]) => {
  const copy = Buffer.from(bytes);
  copy[at % copy.length] = value;
  return copy;
});
const places = fc.array(fc.nat({ max: 100_000 }), { maxLength: 20 });

test('frames are the same however the bytes are cut', () => {
  const frames = fc.array(
    fc.tuple(fc.integer({ min: 0, max: 12 }), fc.integer({ min: 0, max: 255 }), id, fc.uint8Array({ maxLength: 300 })),
    { maxLength: 20 },
  );
  fc.assert(
    fc.property(frames, places, (all, at) => {
      // A padded DATA frame must have room for its padding.
      const bytes = Buffer.concat(
        all.map(([type, flags, streamId, payload]) =>
          frame(type, type === 0 ? flags & ~Flag.PADDED : flags, streamId, payload),
        ),
      );
      const whole = readAll([Buffer.from(bytes)]);
      expect(readAll(cut(bytes, at))).toEqual(whole);
      expect(whole).toHaveLength(all.length);
    }),
    { numRuns: 300 },
  );
});

function readAll(chunks: readonly Buffer[]): string[] {
  const seen: string[] = [];
  let data = '';
  let left = 0;
  const reader = new FrameReader({
    onFrame: (type, flags, streamId, payload) => seen.push(`${type} ${flags} ${streamId} ${payload.toString('hex')}`),
    onDataBegin: (streamId, length, flags) => {
      data = `0 ${flags} ${streamId} `;
      left = length;
      if (length === 0) seen.push(data);
    },
    onDataPadding: () => undefined,
    onDataPart: (view, _end, headroom) => {
      data += view.toString('hex');
      left -= view.length;
      if (left === 0 && view.length > 0) seen.push(data);
      // Whoever writes into the headroom must not change what is still to be read.
      if (headroom) writeHead(Buffer.from(view.buffer, view.byteOffset - 9, 9), 0, 0xffffff, 0xff, 0xff, 0x7fffffff);
    },
  });
  for (const chunk of chunks) reader.read(chunk);
  return seen;
}

test('a client may send what it wants: nothing crashes, nothing grows, and another client is served', {
  timeout: 20_000,
}, async () => {
  const sequence = fc.array(
    fc.oneof({ weight: 6, arbitrary: valid }, { weight: 1, arbitrary: anything }, { weight: 1, arbitrary: mutated }),
    { maxLength: 60 },
  );
  await fc.assert(
    fc.asyncProperty(sequence, places, fc.boolean(), async (frames, at, reads) => {
      const up = bench('client', { limits: LIMITS });
      const errors: unknown[] = [];
      const splices: Splice[] = [];
      const onStream = (
        stream: ConstructorParameters<typeof Splice>[0],
        headers: typeof REQUEST,
        end: boolean,
      ): Splice => {
        const splice = new Splice(stream, headers, end, { onLoss: () => list(['grpc-status', '14']) });
        splices.push(splice);
        splice.forward(up.connection);
        return splice;
      };
      const handler = { onStream, onInternalError: (error: unknown) => errors.push(error) };
      const bad = bench('server', { limits: LIMITS, greet: false }, handler as object);
      const good = bench('server', {}, handler as object);
      await up.peer.ping();
      if (!reads) bad.peer.socket.pause();
      const greeting = Buffer.concat([PREFACE, settingsFrame([])]);
      for (const chunk of cut(Buffer.concat([greeting, ...frames]), at)) {
        bad.peer.send(chunk);
        await new Promise(setImmediate);
        expect(bad.connection.queuedBytes + bad.connection.output.bytes).toBeLessThanOrEqual(LIMIT + 65_536);
        expect(up.connection.queuedBytes).toBeLessThanOrEqual(LIMIT);
      }
      // Answers to some of what has come, also to what has been reset by now.
      for (const { streamId } of up.peer.frames.filter(({ type }) => type === 1).slice(0, 5)) {
        up.peer.send(
          headersFrame(streamId, list([':status', '200'])),
          dataFrame(streamId, 10_000),
          headersFrame(streamId, list(['grpc-status', '0']), 1),
        );
      }
      await up.peer.ping();
      good.peer.send(headersFrame(1, REQUEST, Flag.END_STREAM));
      await good.peer.ping();
      await up.peer.ping();
      const last = up.peer.frames.filter(({ type }) => type === 1).at(-1)?.streamId ?? 0;
      up.peer.send(headersFrame(last, list([':status', '200'], ['grpc-status', '0']), Flag.END_STREAM));
      await good.peer.frame(({ type, streamId }) => type === 1 && streamId === 1);
      bad.peer.socket.destroy();
      await bad.closed;
      await delay(1);
      expect(errors).toEqual([]);
      expect([...bad.errors, ...good.errors, ...up.errors]).toEqual([]);
      expect([bad.connection.streams, bad.connection.queuedBytes, up.connection.closed]).toEqual([0, 0, false]);
      for (const splice of splices) expect(splice.down.closed).toBe(true);
      up.connection.destroy();
    }),
    { numRuns: 150, endOnFailure: true },
  );
});

test('a server may answer what it wants: every call of the client ends, with a status or a reset', {
  timeout: 20_000,
}, async () => {
  const sequence = fc.array(
    fc.oneof({ weight: 6, arbitrary: valid }, { weight: 1, arbitrary: anything }, { weight: 1, arbitrary: mutated }),
    { maxLength: 40 },
  );
  await fc.assert(
    fc.asyncProperty(sequence, places, async (frames, at) => {
      const up = bench('client', { limits: LIMITS });
      await up.peer.ping();
      let ended = 0;
      const onStream = (
        stream: ConstructorParameters<typeof Splice>[0],
        headers: typeof REQUEST,
        end: boolean,
      ): Splice => {
        const splice = new Splice(stream, headers, end, {
          onLoss: () => list(['grpc-status', '14']),
          onEnd: () => {
            ended += 1;
          },
        });
        splice.forward(up.connection);
        return splice;
      };
      const down = bench('server', {}, { onStream });
      for (const streamId of [1, 3, 5, 7, 9]) down.peer.send(headersFrame(streamId), dataFrame(streamId, 100, 1));
      await down.peer.ping();
      const response = [1, 5].map((streamId) =>
        headersFrame(streamId, list([':status', '200'], ['content-type', 'application/grpc'])),
      );
      for (const chunk of cut(Buffer.concat([...response, ...frames]), at)) {
        up.peer.send(chunk);
        await new Promise(setImmediate);
      }
      await down.peer.ping();
      up.peer.socket.destroy();
      await up.closed;
      await delay(1);
      await down.peer.ping();
      expect(ended).toBe(5);
      expect([...down.errors, ...up.errors]).toEqual([]);
      down.connection.destroy();
    }),
    { numRuns: 150, endOnFailure: true },
  );
});
