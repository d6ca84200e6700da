import { type Duplex, duplexPair } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { type CloseReason, Connection, type ConnectionHandler, type Role } from './connection.ts';
import { Field, type Fields } from './fields.ts';
import { Flag, FrameType, frame, LARGEST_MAX_FRAME_SIZE, number32Frame, PREFACE, settingsFrame } from './frames.ts';
import { HpackDecoder } from './hpack.ts';
import type { ConnectionLimits } from './options.ts';
import { FrameReader, type FrameSink } from './reader.ts';
import type { Stream, StreamHandler } from './stream.ts';

export interface SeenFrame {
  type: number;
  flags: number;
  streamId: number;
  payload: Buffer;
}

/** A peer that says what it is told to, right or wrong, and remembers what it hears. */
export class RawPeer implements FrameSink {
  readonly socket: Duplex;
  readonly frames: SeenFrame[] = [];
  ended = false;
  readonly #decoder = new HpackDecoder(2 ** 24);
  #data: SeenFrame | undefined;
  #missing = 0;
  #expected = 0;

  constructor(socket: Duplex, role: Role) {
    this.socket = socket;
    const reader = new FrameReader(this, LARGEST_MAX_FRAME_SIZE);
    let skip = role === 'server' ? PREFACE.length : 0;
    socket.on('data', (chunk: Buffer) => {
      const from = Math.min(skip, chunk.length);
      skip -= from;
      reader.read(Buffer.from(chunk), from);
    });
    socket.on('end', () => {
      this.ended = true;
    });
    socket.on('close', () => {
      this.ended = true;
    });
    socket.on('error', () => undefined);
  }

  onFrame(type: number, flags: number, streamId: number, payload: Buffer): void {
    this.frames.push({ type, flags, streamId, payload: Buffer.from(payload) });
  }

  onDataBegin(streamId: number, length: number, flags: number): void {
    this.#data = { type: FrameType.DATA, flags, streamId, payload: Buffer.alloc(0) };
    this.#expected = length;
    this.#missing = length;
    if (length === 0 && (flags & Flag.END_STREAM) === 0) this.frames.push(this.#data);
  }

  onDataPadding(paddingBytes: number): void {
    this.#missing -= paddingBytes;
  }

  onDataPart(view: Buffer): void {
    if (this.#data === undefined) return;
    this.#missing -= view.length;
    this.#data.payload = Buffer.concat([this.#data.payload, view]);
    if (this.#missing === 0 || this.#expected === 0) this.frames.push(this.#data);
  }

  send(...parts: Buffer[]): void {
    if (!this.socket.destroyed && this.socket.writable) this.socket.write(Buffer.concat(parts));
  }

  /** The first frame, from now on or before, that is as wanted. */
  async frame(wanted: (frame: SeenFrame) => boolean, ms = 2000): Promise<SeenFrame> {
    const end = performance.now() + ms;
    for (;;) {
      const found = this.frames.find(wanted);
      if (found !== undefined) return found;
      if (performance.now() > end) throw new Error(`no such frame among ${JSON.stringify(this.frames.slice(-20))}`);
      await delay(1);
    }
  }

  goaway(): Promise<SeenFrame> {
    return this.frame(({ type }) => type === FrameType.GOAWAY);
  }

  reset(streamId: number): Promise<SeenFrame> {
    return this.frame((one) => one.type === FrameType.RST_STREAM && one.streamId === streamId);
  }

  /** Shows that the connection still works: a PING is answered. */
  async ping(): Promise<void> {
    const payload = Buffer.allocUnsafe(8);
    payload.writeDoubleBE(Math.random());
    this.send(frame(FrameType.PING, 0, 0, payload));
    await this.frame(
      ({ type, flags, payload: seen }) => type === FrameType.PING && flags === 1 && seen.equals(payload),
    );
  }

  decode(block: Buffer): [string, string][] {
    return (this.#decoder.decode(block) ?? []).map(({ name, value }) => [name, value]);
  }

  dataBytes(streamId: number): number {
    return this.frames
      .filter((one) => one.type === FrameType.DATA && one.streamId === streamId)
      .reduce((sum, { payload }) => sum + payload.length, 0);
  }
}

/** Everything that happened on a stream, in order. */
export class Recorder implements StreamHandler {
  readonly seen: string[] = [];
  bytes = 0;
  taken = 0;
  stream: Stream | undefined;
  readonly consume: boolean;
  readonly chunks: Buffer[] = [];

  constructor(consume = true) {
    this.consume = consume;
  }

  onHeaders(headers: Fields, endStream: boolean): void {
    this.seen.push(`headers ${text(headers)}${endStream ? ' end' : ''}`);
  }

  onData(view: Buffer, endStream: boolean): void {
    this.bytes += view.length;
    this.chunks.push(Buffer.from(view));
    if (this.consume) this.stream?.consumed(view.length);
    if (endStream) this.seen.push('end');
  }

  onTrailers(trailers: Fields): void {
    this.seen.push(`trailers ${text(trailers)}`);
  }

  onReset(code: number, cause: string): void {
    this.seen.push(`reset ${code} ${cause}`);
  }

  onTaken(bytes: number): void {
    this.taken += bytes;
  }

  onWritable(): void {
    this.seen.push('writable');
  }
}

export interface Bench {
  connection: Connection;
  peer: RawPeer;
  streams: { stream: Stream; headers: Fields; recorder: Recorder }[];
  closed: Promise<CloseReason>;
  errors: unknown[];
}

/** A connection of ours in the given role, and a raw peer at its other end; `greet` does the SETTINGS for the peer. */
export function bench(
  role: Role,
  options: {
    limits?: Partial<ConnectionLimits>;
    greet?: boolean;
    settings?: [number, number][];
    consume?: boolean;
  } = {},
  handler: Partial<ConnectionHandler> = {},
): Bench {
  const [ours, theirs] = duplexPair();
  const peer = new RawPeer(theirs, role === 'server' ? 'client' : 'server');
  const streams: Bench['streams'] = [];
  const errors: unknown[] = [];
  const { promise: closed, resolve } = Promise.withResolvers<CloseReason>();
  const connection = new Connection(
    role,
    ours,
    {
      onStream(stream, headers) {
        const recorder = new Recorder(options.consume ?? true);
        recorder.stream = stream;
        streams.push({ stream, headers, recorder });
        return recorder;
      },
      onClose: resolve,
      onInternalError: (error) => errors.push(error),
      ...handler,
    },
    options.limits,
  );
  ours.on('data', (chunk: Buffer) => connection.read(chunk));
  if (options.greet ?? true) {
    if (role === 'server') peer.send(PREFACE);
    peer.send(settingsFrame(options.settings ?? []));
  }
  return { connection, peer, streams, closed, errors };
}

export function list(...pairs: [string, string][]): Field[] {
  return pairs.map(([name, value]) => new Field(name, value));
}

export const REQUEST = list(
  [':method', 'POST'],
  [':scheme', 'http'],
  [':path', '/runtime.v1.RuntimeService/Version'],
  [':authority', 'x'],
  ['content-type', 'application/grpc'],
  ['te', 'trailers'],
);

export function block(fields: Fields): Buffer {
  return Buffer.concat(fields.map((one) => one.wire));
}

export function headersFrame(streamId: number, fields: Fields = REQUEST, flags = 0): Buffer {
  return frame(FrameType.HEADERS, Flag.END_HEADERS | flags, streamId, block(fields));
}

export function dataFrame(streamId: number, bytes: Buffer | number, flags = 0): Buffer {
  return frame(FrameType.DATA, flags, streamId, typeof bytes === 'number' ? Buffer.alloc(bytes, 'd') : bytes);
}

export function rst(streamId: number, code: number): Buffer {
  return number32Frame(FrameType.RST_STREAM, streamId, code);
}

export function windowUpdate(streamId: number, increment: number): Buffer {
  return number32Frame(FrameType.WINDOW_UPDATE, streamId, increment);
}

export function codeOf(goawayOrReset: SeenFrame): number {
  const at = goawayOrReset.type === FrameType.GOAWAY ? 4 : 0;
  return goawayOrReset.payload.readUInt32BE(at);
}

export function typesOf(frames: readonly SeenFrame[]): number[] {
  return frames.map(({ type }) => type);
}

function text(fields: Fields): string {
  return fields.map(({ name, value }) => `${name}=${value}`).join(' ');
}
