import {
  byteAt,
  ConnectionError,
  DEFAULT_MAX_FRAME_SIZE,
  ErrorCode,
  Flag,
  FRAME_HEAD_BYTES,
  FrameType,
} from './frames.ts';

/** What the reader finds. Any method may throw a `ConnectionError`, which ends the reading. */
export interface FrameSink {
  /** A whole frame of any type but DATA. `payload` is a view into memory of the reader's: copy what must stay. */
  onFrame(type: number, flags: number, streamId: number, payload: Buffer): void;
  /** A DATA frame begins. `length` is what it takes from the windows, padding included (RFC 9113 6.9.1). */
  onDataBegin(streamId: number, length: number, flags: number): void;
  /** Of the frame that began, so many bytes are padding (and its length) and so many are data. */
  onDataPadding(paddingBytes: number, dataBytes: number): void;
  /**
   * Data of the frame that began, as much of it as has arrived: frames larger than a chunk come in parts, so that they need
   * not be put together. With `headroom` the nine bytes before the view are a frame head that nobody needs any more.
   */
  onDataPart(view: Buffer, endStream: boolean, headroom: boolean): void;
}

// Where the next byte belongs.
const HEAD = 0;
const PAYLOAD = 1;
const PAD_LENGTH = 2;
const DATA = 3;
const PADDING = 4;

/** Cuts a connection's bytes into frames, whatever the chunks they arrive in. Payloads inside one chunk are not copied. */
export class FrameReader {
  readonly #sink: FrameSink;
  readonly #maxFrameSize: number;
  readonly #head = Buffer.alloc(FRAME_HEAD_BYTES);
  #headBytes = 0;
  #state = HEAD;
  #type = 0;
  #flags = 0;
  #streamId = 0;
  #payload: Buffer | undefined;
  #payloadBytes = 0;
  #length = 0;
  #dataLeft = 0;
  #padding = 0;
  #headroom = false;
  #stopped = false;

  constructor(sink: FrameSink, maxFrameSize = DEFAULT_MAX_FRAME_SIZE) {
    this.#sink = sink;
    this.#maxFrameSize = maxFrameSize;
  }

  /** Nothing more is reported, not even the rest of the chunk at hand. */
  stop(): void {
    this.#stopped = true;
    this.#payload = undefined;
  }

  /** Reads one chunk; it belongs to the reader and those it hands views to from now on. */
  read(chunk: Buffer, from = 0): void {
    const end = chunk.length;
    let at = from;
    while (at < end && !this.#stopped) {
      switch (this.#state) {
        case HEAD:
          if (this.#headBytes === 0 && end - at >= FRAME_HEAD_BYTES) {
            this.#begin(chunk, at, true);
            at += FRAME_HEAD_BYTES;
          } else {
            at += this.#fillHead(chunk, at);
          }
          break;
        case PAYLOAD:
          at = this.#readPayload(chunk, at);
          break;
        case PAD_LENGTH:
          this.#beginPadded(byteAt(chunk, at));
          at += 1;
          break;
        case DATA:
          at = this.#readData(chunk, at);
          break;
        default: {
          const n = Math.min(this.#padding, end - at);
          at += n;
          this.#padding -= n;
          if (this.#padding === 0) this.#state = HEAD;
        }
      }
    }
  }

  #fillHead(chunk: Buffer, at: number): number {
    const n = Math.min(FRAME_HEAD_BYTES - this.#headBytes, chunk.length - at);
    chunk.copy(this.#head, this.#headBytes, at, at + n);
    this.#headBytes += n;
    if (this.#headBytes === FRAME_HEAD_BYTES) {
      this.#headBytes = 0;
      this.#begin(this.#head, 0, false);
    }
    return n;
  }

  #begin(from: Buffer, at: number, headroom: boolean): void {
    const length = (byteAt(from, at) << 16) | (byteAt(from, at + 1) << 8) | byteAt(from, at + 2);
    const type = byteAt(from, at + 3);
    this.#flags = byteAt(from, at + 4);
    this.#streamId =
      ((byteAt(from, at + 5) & 0x7f) << 24) |
      (byteAt(from, at + 6) << 16) |
      (byteAt(from, at + 7) << 8) |
      byteAt(from, at + 8);
    this.#type = type;
    this.#length = length;
    // RFC 9113 4.2. Also for frames of unknown type: otherwise they would be the way to send what is too long.
    if (length > this.#maxFrameSize) {
      throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, `a frame of ${length} bytes`);
    }
    if (type === FrameType.DATA) {
      this.#headroom = headroom;
      this.#sink.onDataBegin(this.#streamId, length, this.#flags);
      if ((this.#flags & Flag.PADDED) !== 0) {
        if (length === 0) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, 'a padded DATA frame without a length');
        this.#state = PAD_LENGTH;
      } else {
        this.#padding = 0;
        this.#beginData(length);
      }
    } else if (length === 0) {
      this.#state = HEAD;
      this.#sink.onFrame(type, this.#flags, this.#streamId, EMPTY);
    } else {
      this.#payloadBytes = 0;
      this.#state = PAYLOAD;
    }
  }

  #readPayload(chunk: Buffer, at: number): number {
    const n = Math.min(this.#length - this.#payloadBytes, chunk.length - at);
    if (n === this.#length) {
      this.#state = HEAD;
      this.#sink.onFrame(this.#type, this.#flags, this.#streamId, chunk.subarray(at, at + n));
      return at + n;
    }
    this.#payload ??= Buffer.allocUnsafe(this.#length);
    chunk.copy(this.#payload, this.#payloadBytes, at, at + n);
    this.#payloadBytes += n;
    if (this.#payloadBytes === this.#length) {
      const payload = this.#payload;
      this.#payload = undefined;
      this.#state = HEAD;
      this.#sink.onFrame(this.#type, this.#flags, this.#streamId, payload);
    }
    return at + n;
  }

  #beginPadded(padding: number): void {
    // RFC 9113 6.1: padding as long as the payload or longer.
    if (padding >= this.#length) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, 'more padding than payload');
    this.#padding = padding;
    this.#sink.onDataPadding(padding + 1, this.#length - padding - 1);
    this.#beginData(this.#length - padding - 1);
  }

  #beginData(bytes: number): void {
    this.#dataLeft = bytes;
    if (bytes > 0) {
      this.#state = DATA;
      return;
    }
    this.#state = this.#padding > 0 ? PADDING : HEAD;
    if ((this.#flags & Flag.END_STREAM) !== 0) this.#sink.onDataPart(EMPTY, true, false);
  }

  #readData(chunk: Buffer, at: number): number {
    const n = Math.min(this.#dataLeft, chunk.length - at);
    this.#dataLeft -= n;
    const last = this.#dataLeft === 0;
    if (last) this.#state = this.#padding > 0 ? PADDING : HEAD;
    // The head may have come with an earlier chunk; what is before this view then is not ours.
    const headroom = this.#headroom && at >= FRAME_HEAD_BYTES;
    this.#headroom = false;
    this.#sink.onDataPart(chunk.subarray(at, at + n), last && (this.#flags & Flag.END_STREAM) !== 0, headroom);
    return at + n;
  }
}

const EMPTY = Buffer.alloc(0);
