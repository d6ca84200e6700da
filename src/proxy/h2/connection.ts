import type { Duplex } from 'node:stream';
import { messageOf } from '../../errors.ts';
import { Allowance } from './allowance.ts';
import type { Fields } from './fields.ts';
import {
  byteAt,
  ConnectionError,
  DEFAULT_MAX_FRAME_SIZE,
  DEFAULT_WINDOW,
  ErrorCode,
  Flag,
  FRAME_HEAD_BYTES,
  FrameType,
  frame,
  goawayFrame,
  LARGEST_MAX_FRAME_SIZE,
  LARGEST_STREAM_ID,
  LARGEST_WINDOW,
  PREFACE,
  read31,
  read32,
  Setting,
  settingsFrame,
  writeHead,
} from './frames.ts';
import { HeaderBlock } from './header-block.ts';
import { HpackDecoder, NO_TABLE } from './hpack.ts';
import { CLIENT_LIMITS, type ConnectionLimits, SERVER_LIMITS } from './options.ts';
import { Output, writeAfter } from './output.ts';
import { FrameReader, type FrameSink } from './reader.ts';
import { NOBODY, type ResetCause, Stream, type StreamHandler, type StreamHost } from './stream.ts';
import { isRequest, isTrailers, statusOf } from './validity.ts';

/** Why a connection ended. `us`: the peer broke the protocol or went beyond a limit; `code` and `message` say how. */
export interface CloseReason {
  by: 'peer' | 'us' | 'socket';
  code: number;
  message: string;
}

export interface ConnectionHandler {
  /** A request has come (server only). Its handler gets what follows; it is not called before this returns. */
  onStream?(stream: Stream, headers: Fields, endStream: boolean): StreamHandler;
  /** The peer's SETTINGS have come for the first time. */
  onReady?(): void;
  /** The peer wants no more streams; those above `lastStreamId` have been reset as unprocessed. */
  onGoaway?(code: number, lastStreamId: number): void;
  /** It is over. All streams have been told before. */
  onClose(reason: CloseReason): void;
  /** A handler threw; its stream has been reset. */
  onInternalError?(error: unknown): void;
}

export type Role = 'server' | 'client';

// How much one stream may send before it is the next one's turn.
const QUANTUM_BYTES = 64 * 1024;
const DRAIN_PING = Buffer.from('gantry\0\0', 'latin1');
const DRAIN_PING_TIMEOUT_MS = 1000;
const CLOSE_TIMEOUT_MS = 1000;

/**
 * One endpoint of an HTTP/2 connection (RFC 9113), without push.
 *
 *   open ── close() ──▶ draining ── no streams left ──▶ closed
 *     └───────── error, socket gone, destroy() ────────────▲
 */
export class Connection implements StreamHost, FrameSink {
  readonly role: Role;
  /** @internal */
  readonly output: Output;
  /** @internal */
  sendWindow = DEFAULT_WINDOW;
  /** @internal */
  peerMaxFrameSize = DEFAULT_MAX_FRAME_SIZE;
  readonly streamWindowBytes: number;

  readonly #socket: Duplex;
  readonly #handler: ConnectionHandler;
  readonly #limits: ConnectionLimits;
  readonly #reader: FrameReader;
  readonly #decoder: HpackDecoder;
  readonly #block: HeaderBlock;
  readonly #streams = new Map<number, Stream>();
  readonly #waiting = new Set<Stream>(); // for the peer to allow another stream
  readonly #sending = new Set<Stream>(); // with something in their queue
  readonly #resets: Allowance;
  readonly #idleFrames: Allowance;
  readonly #handshakeTimer: NodeJS.Timeout;

  #state: 'open' | 'draining' | 'closed' = 'open';
  #prefaceBytes = 0;
  #settled = false;
  #recvWindow = DEFAULT_WINDOW;
  #credit = 0;
  #queuedBytes = 0;
  #peerInitialWindow = DEFAULT_WINDOW;
  #peerMaxStreams = 0; // until it has told: a request that its limit refuses would have to be sent again
  #nextId = 1;
  #lastPeerId = 0;
  #acceptUpTo = LARGEST_STREAM_ID;
  #goneAway = false; // the peer has sent GOAWAY
  #first = true; // no header block has been sent yet
  #current: Stream | undefined; // whose DATA frame is being read
  #drainTimer: NodeJS.Timeout | undefined;

  constructor(role: Role, socket: Duplex, handler: ConnectionHandler, limits: Partial<ConnectionLimits> = {}) {
    this.role = role;
    this.#socket = socket;
    this.#handler = handler;
    this.#limits = { ...(role === 'server' ? SERVER_LIMITS : CLIENT_LIMITS), ...limits };
    this.streamWindowBytes = this.#limits.streamWindowBytes;
    this.#reader = new FrameReader(this);
    this.#decoder = new HpackDecoder(this.#limits.headerListBytes);
    this.#block = new HeaderBlock(this.#limits.headerListBytes);
    this.#resets = new Allowance(this.#limits.resets.burst, this.#limits.resets.perSecond);
    this.#idleFrames = new Allowance(this.#limits.idleFrames.burst, this.#limits.idleFrames.perSecond);
    this.output = new Output(socket, () => this.#pump());
    this.#handshakeTimer = setTimeout(
      () => this.#fail(ErrorCode.SETTINGS_TIMEOUT, 'no SETTINGS came'),
      this.#limits.handshakeTimeoutMs,
    ).unref();
    socket.on('end', () => this.#finish({ by: 'socket', code: 0, message: 'the peer closed the connection' }));
    socket.on('error', (error) => this.#finish({ by: 'socket', code: 0, message: messageOf(error) }));
    socket.on('close', () => this.#finish({ by: 'socket', code: 0, message: 'the connection closed' }));
    this.#begin();
  }

  /** Whether `open` can send a request. */
  get usable(): boolean {
    return this.#state === 'open' && !this.#goneAway && this.#nextId <= LARGEST_STREAM_ID;
  }

  get closed(): boolean {
    return this.#state === 'closed';
  }

  get streams(): number {
    return this.#streams.size + this.#waiting.size;
  }

  /** Bytes of all streams that wait for this peer to read. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** A new stream of a client. Nothing is sent, and no id taken, before its `sendHeaders`. */
  open(handler: StreamHandler): Stream {
    return new Stream(this, 0, handler);
  }

  /**
   * No new streams; those that are open may finish, and then the connection closes. A server announces it first and
   * decides where to cut only when the client must have read that (RFC 9113 6.8), as grpc-go does.
   */
  close(): void {
    if (this.#state !== 'open') return;
    this.#state = 'draining';
    if (this.role === 'server') {
      this.output.write(goawayFrame(LARGEST_STREAM_ID, ErrorCode.NO_ERROR));
      this.output.write(frame(FrameType.PING, 0, 0, DRAIN_PING));
      this.#drainTimer = setTimeout(() => this.#cut(), DRAIN_PING_TIMEOUT_MS).unref();
    } else {
      this.#closeIfDrained();
    }
  }

  /** Ends it now; streams that are still open are told that the connection is gone. */
  destroy(code: number = ErrorCode.NO_ERROR, message = ''): void {
    this.#fail(code, message);
  }

  // ---- StreamHost

  writeHeaders(streamId: number, fields: Fields, endStream: boolean): void {
    const update = this.#first ? 1 : 0;
    let length = update;
    for (const one of fields) length += one.wire.length;
    if (length > this.peerMaxFrameSize) {
      this.#writeLongHeaders(streamId, fields, endStream);
      return;
    }
    let at = this.output.reserve(FRAME_HEAD_BYTES + length);
    const slab = this.output.slab;
    const flags = endStream ? Flag.END_HEADERS | Flag.END_STREAM : Flag.END_HEADERS;
    writeHead(slab, at, length, FrameType.HEADERS, flags, streamId);
    at += FRAME_HEAD_BYTES;
    if (update === 1) {
      slab[at++] = NO_TABLE;
      this.#first = false;
    }
    for (const { wire } of fields) {
      const size = wire.length;
      if (size === 1) slab[at] = byteAt(wire, 0);
      else slab.set(wire, at);
      at += size;
    }
    if (this.output.blocked) this.#checkBacklog();
  }

  start(stream: Stream): boolean {
    if (!this.usable) return false;
    if (this.#streams.size >= this.#peerMaxStreams) {
      if (this.#waiting.size >= this.#limits.waitingStreams) return false;
      this.#waiting.add(stream);
      return true;
    }
    this.#start(stream);
    return true;
  }

  queued(stream: Stream, bytes: number): void {
    this.#queuedBytes += bytes;
    if (stream.queuedBytes === 0) this.#sending.delete(stream);
    else if (bytes > 0) {
      this.#sending.add(stream);
      this.#checkBacklog();
    }
  }

  credit(bytes: number): void {
    if (this.#limits.connectionCredit === 'consumed') this.#giveBack(bytes);
  }

  release(stream: Stream): void {
    if (stream.id === 0) this.#waiting.delete(stream);
    else this.#streams.delete(stream.id);
    if (this.#waiting.size > 0) this.#startWaiting();
    if (this.#state === 'draining' || this.#goneAway) this.#closeIfDrained();
  }

  // ---- FrameSink

  onFrame(type: number, flags: number, streamId: number, payload: Buffer): void {
    if (this.#block.open && (type !== FrameType.CONTINUATION || streamId !== this.#block.streamId)) {
      throw protocol('a header block was interrupted'); // RFC 9113 6.10
    }
    if (!this.#settled && (type !== FrameType.SETTINGS || (flags & Flag.ACK) !== 0)) {
      throw protocol('the first frame is not SETTINGS'); // RFC 9113 3.4
    }
    switch (type) {
      case FrameType.HEADERS:
        this.#onHeadersFrame(flags, streamId, payload);
        break;
      case FrameType.CONTINUATION:
        this.#onContinuation(flags, payload);
        break;
      case FrameType.WINDOW_UPDATE:
        this.#onWindowUpdate(streamId, payload);
        break;
      case FrameType.RST_STREAM:
        this.#onRstStream(streamId, payload);
        break;
      case FrameType.SETTINGS:
        this.#onSettings(flags, streamId, payload);
        break;
      case FrameType.PING:
        this.#onPing(flags, streamId, payload);
        break;
      case FrameType.GOAWAY:
        this.#onGoaway(streamId, payload);
        break;
      case FrameType.PUSH_PROMISE:
        throw protocol('PUSH_PROMISE, which was not allowed');
      case FrameType.PRIORITY:
        this.#onPriority(streamId, payload);
        break;
      default:
        this.#countIdle(); // RFC 9113 5.5: what nobody knows is ignored
    }
  }

  onDataBegin(streamId: number, length: number, flags: number): void {
    if (this.#block.open) throw protocol('a header block was interrupted');
    if (!this.#settled) throw protocol('the first frame is not SETTINGS');
    // RFC 9113 6.9.1: whatever becomes of it, it counts on the connection.
    this.#recvWindow -= length;
    if (this.#recvWindow < 0) throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, 'more DATA than the window');
    if (length === 0 && (flags & Flag.END_STREAM) === 0) this.#countIdle();
    const stream = this.#streams.get(streamId);
    this.#current = undefined;
    if (stream === undefined) {
      if (this.#isIdle(streamId)) throw protocol(`DATA on stream ${streamId}, which is not open`);
      this.#countIdle();
      this.#giveBack(length);
    } else if (stream.remoteEnded || !stream.headersSeen || length > stream.recvWindow) {
      this.#giveBack(length);
      const code = stream.remoteEnded
        ? ErrorCode.STREAM_CLOSED
        : stream.headersSeen
          ? ErrorCode.FLOW_CONTROL_ERROR
          : ErrorCode.PROTOCOL_ERROR;
      this.#breakStream(stream, code);
    } else {
      this.#current = stream;
      stream.recvWindow -= length;
      if (this.#limits.connectionCredit === 'arrival') this.#giveBack(length);
    }
  }

  onDataPadding(paddingBytes: number, dataBytes: number): void {
    if (dataBytes === 0) this.#countIdle();
    this.#current?.receivedPadding(paddingBytes);
  }

  onDataPart(view: Buffer, endStream: boolean, headroom: boolean): void {
    const stream = this.#current;
    if (stream === undefined) return;
    if (stream.closed) {
      // It was reset while the frame was arriving. What had come before has been given back with the stream.
      this.credit(view.length);
      return;
    }
    stream.received(view.length);
    try {
      // First, so that whoever answers from within the call finds the stream as it is.
      if (endStream) stream.remoteEnded = true;
      stream.handler.onData(view, endStream, headroom);
      if (endStream) stream.endRemote();
    } catch (error) {
      this.#crash(stream, error);
    }
  }

  // ---- receiving

  #begin(): void {
    const { streamWindowBytes, connectionWindowBytes, headerListBytes, maxConcurrentStreams } = this.#limits;
    const settings: [number, number][] = [
      [Setting.INITIAL_WINDOW_SIZE, streamWindowBytes],
      [Setting.MAX_HEADER_LIST_SIZE, headerListBytes],
    ];
    if (this.role === 'client') {
      this.output.write(PREFACE);
      settings.push([Setting.ENABLE_PUSH, 0]);
      this.#prefaceBytes = PREFACE.length;
    } else {
      settings.push([Setting.MAX_CONCURRENT_STREAMS, maxConcurrentStreams]);
    }
    this.output.write(settingsFrame(settings));
    if (connectionWindowBytes > DEFAULT_WINDOW) {
      this.output.number32(FrameType.WINDOW_UPDATE, 0, connectionWindowBytes - DEFAULT_WINDOW);
      this.#recvWindow = connectionWindowBytes;
    }
  }

  /** What the socket has read. The chunk may be overwritten when this returns. */
  read(chunk: Buffer): void {
    writeAfter(() => this.#read(chunk));
  }

  #read(chunk: Buffer): void {
    if (this.#state === 'closed') return;
    try {
      const from = this.#prefaceBytes < PREFACE.length ? this.#readPreface(chunk) : 0;
      this.#reader.read(chunk, from);
      if (this.output.blocked) this.#checkBacklog();
    } catch (error) {
      if (error instanceof ConnectionError) this.#fail(error.code, error.message);
      else {
        this.#handler.onInternalError?.(error);
        this.#fail(ErrorCode.INTERNAL_ERROR, '');
      }
    }
  }

  #readPreface(chunk: Buffer): number {
    const n = Math.min(PREFACE.length - this.#prefaceBytes, chunk.length);
    if (chunk.compare(PREFACE, this.#prefaceBytes, this.#prefaceBytes + n, 0, n) !== 0) {
      throw protocol('this is not HTTP/2');
    }
    this.#prefaceBytes += n;
    return n;
  }

  #onHeadersFrame(flags: number, streamId: number, payload: Buffer): void {
    // RFC 9113 6.2. A server's streams are odd, and a client without push has no others.
    if ((streamId & 1) === 0) throw protocol(`HEADERS on stream ${streamId}`);
    let from = 0;
    let end = payload.length;
    if ((flags & Flag.PADDED) !== 0) {
      if (end === 0) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, 'HEADERS without their padding');
      end -= byteAt(payload, 0);
      from = 1;
    }
    if ((flags & Flag.PRIORITY) !== 0) from += 5;
    if (from > end) throw protocol('more padding than payload');
    const endStream = (flags & Flag.END_STREAM) !== 0;
    const fragment = from === 0 && end === payload.length ? payload : payload.subarray(from, end);
    if ((flags & Flag.END_HEADERS) !== 0) this.#onHeaders(streamId, this.#decoder.decode(fragment), endStream);
    else this.#block.begin(streamId, endStream, fragment);
  }

  #onContinuation(flags: number, payload: Buffer): void {
    if (!this.#block.open) throw protocol('CONTINUATION of nothing');
    this.#block.add(payload);
    if ((flags & Flag.END_HEADERS) === 0) return;
    const { streamId, endStream } = this.#block;
    this.#onHeaders(streamId, this.#decoder.decode(this.#block.take()), endStream);
  }

  #onHeaders(streamId: number, fields: Fields | undefined, endStream: boolean): void {
    const stream = this.#streams.get(streamId);
    if (stream !== undefined) this.#onMoreHeaders(stream, fields, endStream);
    else if (this.role === 'server' && streamId > this.#lastPeerId) this.#onRequest(streamId, fields, endStream);
    else if (this.#isIdle(streamId)) throw protocol(`HEADERS on stream ${streamId}, which is not open`);
    else this.#countIdle(); // of a stream that has been closed here and may be still open there
  }

  #onRequest(streamId: number, fields: Fields | undefined, endStream: boolean): void {
    if (streamId > this.#acceptUpTo) return; // RFC 9113 6.8: beyond GOAWAY nothing is answered
    this.#lastPeerId = streamId;
    const refusal = this.#refusalOf(fields);
    if (refusal !== undefined || fields === undefined || this.#handler.onStream === undefined) {
      // The stream is not even made.
      this.#countReset();
      this.output.number32(FrameType.RST_STREAM, streamId, refusal ?? ErrorCode.REFUSED_STREAM);
      return;
    }
    const stream = new Stream(this, streamId, NOBODY);
    stream.sendWindow = this.#peerInitialWindow;
    stream.headersSeen = true;
    stream.remoteEnded = endStream;
    this.#streams.set(streamId, stream);
    try {
      stream.handler = this.#handler.onStream(stream, fields, endStream);
    } catch (error) {
      this.#crash(stream, error);
    }
  }

  #onMoreHeaders(stream: Stream, fields: Fields | undefined, endStream: boolean): void {
    const fault = faultOf(stream, fields, endStream);
    if (fault !== undefined || fields === undefined) {
      this.#breakStream(stream, fault ?? ErrorCode.ENHANCE_YOUR_CALM);
      return;
    }
    const trailers = stream.headersSeen;
    if (!trailers && isInterim(fields)) this.#countIdle();
    else stream.headersSeen = true;
    // First, so that whoever answers from within the call finds the stream as it is.
    if (endStream) stream.remoteEnded = true;
    try {
      if (trailers) stream.handler.onTrailers(fields);
      else stream.handler.onHeaders(fields, endStream);
      if (endStream) stream.endRemote();
    } catch (error) {
      this.#crash(stream, error);
    }
  }

  // Of no interest to a relay, which keeps the order in which frames come (RFC 9113 5.3.2).
  #onPriority(streamId: number, payload: Buffer): void {
    if (streamId === 0) throw protocol('PRIORITY of no stream');
    this.#countIdle();
    if (payload.length !== 5) this.#resetId(streamId, ErrorCode.FRAME_SIZE_ERROR); // RFC 9113 6.3
  }

  #onRstStream(streamId: number, payload: Buffer): void {
    if (payload.length !== 4) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, 'RST_STREAM');
    if (this.#isIdle(streamId)) throw protocol(`RST_STREAM of stream ${streamId}, which is not open`);
    if (this.role === 'server') this.#countReset();
    const code = read32(payload, 0);
    this.#end(streamId, code, code === ErrorCode.REFUSED_STREAM ? 'unprocessed' : 'peer');
  }

  #onWindowUpdate(streamId: number, payload: Buffer): void {
    if (payload.length !== 4) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, 'WINDOW_UPDATE');
    const increment = read31(payload, 0);
    if (streamId === 0) {
      if (increment === 0) throw protocol('WINDOW_UPDATE by nothing');
      this.sendWindow += increment;
      if (this.sendWindow > LARGEST_WINDOW) throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, 'window overflow');
      this.#pump();
      return;
    }
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      if (this.#isIdle(streamId)) throw protocol(`WINDOW_UPDATE of stream ${streamId}, which is not open`);
      return; // it was on its way when the stream ended
    }
    stream.sendWindow += increment;
    if (increment === 0) this.#breakStream(stream, ErrorCode.PROTOCOL_ERROR);
    else if (stream.sendWindow > LARGEST_WINDOW) this.#breakStream(stream, ErrorCode.FLOW_CONTROL_ERROR);
    else this.#pumpOne(stream);
  }

  #onSettings(flags: number, streamId: number, payload: Buffer): void {
    if (streamId !== 0) throw protocol('SETTINGS of a stream');
    const ack = (flags & Flag.ACK) !== 0;
    if (ack ? payload.length !== 0 : payload.length % 6 !== 0) {
      throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, 'SETTINGS');
    }
    this.#countIdle();
    if (ack) return;
    if (!this.#settled) this.#peerMaxStreams = LARGEST_STREAM_ID; // unless it says otherwise (RFC 9113 6.5.2)
    for (let at = 0; at < payload.length; at += 6) this.#set(payload.readUInt16BE(at), read32(payload, at + 2));
    this.output.write(frame(FrameType.SETTINGS, Flag.ACK, 0));
    if (!this.#settled) {
      this.#settled = true;
      clearTimeout(this.#handshakeTimer);
      this.#handler.onReady?.();
    }
    this.#startWaiting();
    this.#pump();
  }

  #set(id: number, value: number): void {
    switch (id) {
      case Setting.ENABLE_PUSH:
        if (value > 1 || (value === 1 && this.role === 'client')) throw protocol('ENABLE_PUSH');
        return;
      case Setting.MAX_CONCURRENT_STREAMS:
        this.#peerMaxStreams = value;
        return;
      case Setting.INITIAL_WINDOW_SIZE: {
        if (value > LARGEST_WINDOW) throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, 'INITIAL_WINDOW_SIZE');
        // RFC 9113 6.9.2: of the streams that are open, too, and below zero if need be.
        const difference = value - this.#peerInitialWindow;
        this.#peerInitialWindow = value;
        for (const stream of this.#streams.values()) {
          stream.sendWindow += difference;
          if (stream.sendWindow > LARGEST_WINDOW) {
            throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, 'window overflow');
          }
        }
        return;
      }
      case Setting.MAX_FRAME_SIZE:
        if (value < DEFAULT_MAX_FRAME_SIZE || value > LARGEST_MAX_FRAME_SIZE) throw protocol('MAX_FRAME_SIZE');
        this.peerMaxFrameSize = value;
    }
    // HEADER_TABLE_SIZE is of no interest to an encoder without a table, MAX_HEADER_LIST_SIZE is advisory.
  }

  #onPing(flags: number, streamId: number, payload: Buffer): void {
    if (streamId !== 0) throw protocol('PING of a stream');
    if (payload.length !== 8) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, 'PING');
    this.#countIdle();
    // grpc-go pings with every message, to measure; a write for each acknowledgement would wake it before the client.
    if ((flags & Flag.ACK) === 0) this.output.writeLater(frame(FrameType.PING, Flag.ACK, 0, payload));
    else if (this.#drainTimer !== undefined && payload.equals(DRAIN_PING)) this.#cut();
  }

  #onGoaway(streamId: number, payload: Buffer): void {
    if (streamId !== 0) throw protocol('GOAWAY of a stream');
    if (payload.length < 8) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, 'GOAWAY');
    this.#countIdle();
    const last = read31(payload, 0);
    const code = read32(payload, 4);
    this.#goneAway = true;
    if (this.role === 'client') {
      for (const stream of [...this.#waiting]) stream.onReset(ErrorCode.REFUSED_STREAM, 'unprocessed');
      for (const [id, stream] of [...this.#streams]) {
        if (id > last) stream.onReset(ErrorCode.REFUSED_STREAM, 'unprocessed');
      }
    }
    this.#handler.onGoaway?.(code, last);
    if (this.#streams.size === 0) this.#closeIfDrained();
  }

  /** Streams that nobody has opened yet (RFC 9113 5.1). */
  #isIdle(streamId: number): boolean {
    if ((streamId & 1) === 0) return true;
    return this.role === 'server'
      ? streamId > this.#lastPeerId && streamId <= this.#acceptUpTo
      : streamId >= this.#nextId;
  }

  #countIdle(): void {
    if (!this.#idleFrames.take()) throw calm('too many frames that carry nothing');
  }

  #countReset(): void {
    if (!this.#resets.take()) throw calm('too many streams were reset');
  }

  // ---- streams

  #start(stream: Stream): void {
    const id = this.#nextId;
    this.#nextId += 2;
    this.#streams.set(id, stream);
    stream.onStarted(id, this.#peerInitialWindow);
  }

  #startWaiting(): void {
    for (const stream of this.#waiting) {
      if (this.#streams.size >= this.#peerMaxStreams || !this.usable) return;
      this.#waiting.delete(stream);
      this.#start(stream);
    }
  }

  #refusalOf(fields: Fields | undefined): number | undefined {
    if (this.#streams.size >= this.#limits.maxConcurrentStreams) return ErrorCode.REFUSED_STREAM;
    if (fields === undefined) return ErrorCode.ENHANCE_YOUR_CALM;
    return isRequest(fields) ? undefined : ErrorCode.PROTOCOL_ERROR;
  }

  #resetId(streamId: number, code: number): void {
    const stream = this.#streams.get(streamId);
    if (stream !== undefined) this.#breakStream(stream, code);
  }

  // The peer's fault, so it counts like a reset of its own.
  #breakStream(stream: Stream, code: number): void {
    this.output.number32(FrameType.RST_STREAM, stream.id, code);
    this.#tell(stream, code, 'protocol');
    if (this.role === 'server') this.#countReset();
  }

  #end(streamId: number, code: number, cause: ResetCause): void {
    const stream = this.#streams.get(streamId);
    if (stream !== undefined) this.#tell(stream, code, cause);
  }

  #tell(stream: Stream, code: number, cause: ResetCause): void {
    try {
      stream.onReset(code, cause);
    } catch (error) {
      this.#handler.onInternalError?.(error);
    }
  }

  #crash(stream: Stream, error: unknown): void {
    this.#handler.onInternalError?.(error);
    stream.reset(ErrorCode.INTERNAL_ERROR);
  }

  // ---- sending

  #giveBack(bytes: number): void {
    this.#credit += bytes;
    // Not only at half the window: what stalled streams hold of it never comes back, and the rest must go on.
    const due = this.#credit >= this.#limits.connectionWindowBytes / 2 || this.#credit >= this.#recvWindow;
    if (!due || this.#credit === 0 || this.#state === 'closed') return;
    this.output.number32(FrameType.WINDOW_UPDATE, 0, this.#credit);
    this.#recvWindow += this.#credit;
    this.#credit = 0;
  }

  #pump(): void {
    for (let progress = true; progress; ) {
      progress = false;
      for (const stream of [...this.#sending]) {
        if (this.sendWindow <= 0 || this.output.blocked) return;
        if (this.#pumpOne(stream) === 0) continue;
        progress = true;
        // Behind the others.
        if (this.#sending.delete(stream)) this.#sending.add(stream);
      }
    }
  }

  #pumpOne(stream: Stream): number {
    try {
      return stream.pump(QUANTUM_BYTES);
    } catch (error) {
      this.#crash(stream, error);
      return 0;
    }
  }

  #writeLongHeaders(streamId: number, fields: Fields, endStream: boolean): void {
    const update = this.#first ? [Buffer.of(NO_TABLE)] : [];
    this.#first = false;
    const block = Buffer.concat([...update, ...fields.map((one) => one.wire)]);
    for (let at = 0; at < block.length; at += this.peerMaxFrameSize) {
      const fragment = block.subarray(at, at + this.peerMaxFrameSize);
      const last = at + fragment.length === block.length ? Flag.END_HEADERS : 0;
      const end = at === 0 && endStream ? Flag.END_STREAM : 0;
      const type = at === 0 ? FrameType.HEADERS : FrameType.CONTINUATION;
      this.output.write(frame(type, last | end, streamId, fragment));
    }
    if (this.output.blocked) this.#checkBacklog();
  }

  #checkBacklog(): void {
    if (this.#queuedBytes + this.output.bytes <= this.#limits.queuedBytes) return;
    this.#fail(ErrorCode.ENHANCE_YOUR_CALM, 'the peer does not read');
  }

  // ---- ending

  /** The second GOAWAY: streams above the last that has come are not served. */
  #cut(): void {
    clearTimeout(this.#drainTimer);
    this.#drainTimer = undefined;
    if (this.#state !== 'draining') return;
    this.#acceptUpTo = this.#lastPeerId;
    this.output.write(goawayFrame(this.#lastPeerId, ErrorCode.NO_ERROR));
    this.#closeIfDrained();
  }

  #closeIfDrained(): void {
    if (this.#state === 'closed' || this.streams > 0 || this.#drainTimer !== undefined) return;
    if (this.role === 'client') this.output.write(goawayFrame(0, ErrorCode.NO_ERROR));
    this.#finish({ by: this.#goneAway ? 'peer' : 'us', code: ErrorCode.NO_ERROR, message: 'all streams have ended' });
  }

  #fail(code: number, message: string): void {
    if (this.#state === 'closed') return;
    this.output.write(goawayFrame(this.#lastPeerId, code, message));
    this.#finish({ by: 'us', code, message });
  }

  #finish(reason: CloseReason): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#reader.stop();
    clearTimeout(this.#handshakeTimer);
    clearTimeout(this.#drainTimer);
    this.output.flush();
    this.output.close();
    // What was written still goes out, unless the peer does not take it.
    if (reason.by === 'socket') this.#socket.destroy();
    else {
      this.#socket.end();
      const socket = this.#socket;
      const timer = setTimeout(() => socket.destroy(), CLOSE_TIMEOUT_MS).unref();
      socket.once('close', () => clearTimeout(timer));
    }
    for (const stream of [...this.#waiting]) this.#tell(stream, ErrorCode.REFUSED_STREAM, 'unprocessed');
    for (const stream of [...this.#streams.values()]) this.#tell(stream, ErrorCode.CANCEL, 'connection');
    this.#handler.onClose(reason);
  }
}

/** What is wrong with a header block on a stream that is open already (RFC 9113 8.1). */
function faultOf(stream: Stream, fields: Fields | undefined, endStream: boolean): number | undefined {
  if (stream.remoteEnded) return ErrorCode.STREAM_CLOSED;
  if (fields === undefined) return ErrorCode.ENHANCE_YOUR_CALM;
  // What follows a message can only be its end.
  if (stream.headersSeen) return endStream && isTrailers(fields) ? undefined : ErrorCode.PROTOCOL_ERROR;
  const status = statusOf(fields);
  return status === undefined || (status < 200 && endStream) ? ErrorCode.PROTOCOL_ERROR : undefined;
}

/** Of a response that is known to be one: its status comes first. */
function isInterim(fields: Fields): boolean {
  return fields[0]?.value.startsWith('1') === true;
}

function protocol(message: string): ConnectionError {
  return new ConnectionError(ErrorCode.PROTOCOL_ERROR, message);
}

function calm(message: string): ConnectionError {
  return new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, message);
}
