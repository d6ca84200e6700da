import { type StatusCode, status } from '../grpc-status.ts';

/** Flag and length before each message (gRPC over HTTP/2, Length-Prefixed-Message). */
export const HEAD_BYTES = 5;
const COMPRESSED = 1;

/** Why bytes are not the messages that they should be, as a status for whoever waits for them. */
export class MessageError extends Error {
  readonly code: StatusCode;

  constructor(code: StatusCode, message: string) {
    super(message);
    this.name = 'MessageError';
    this.code = code;
  }
}

/** One message as it travels, never compressed: whoever understands `grpc-encoding` also takes that. */
export function framed(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(HEAD_BYTES + message.length);
  writeHead(frame, message.length);
  frame.set(message, HEAD_BYTES);
  return frame;
}

/** What comes before a message of that length. */
export function headOf(length: number): Buffer {
  const head = Buffer.allocUnsafe(HEAD_BYTES);
  writeHead(head, length);
  return head;
}

function writeHead(into: Buffer, length: number): void {
  into.writeUInt8(0, 0);
  into.writeUInt32BE(length, 1);
}

/** Cuts one direction of a call into messages, whatever the pieces it comes in. It holds one message at most. */
export class MessageReader {
  readonly #encoding: string | undefined;
  readonly #mostBytes: number;
  readonly #head = Buffer.alloc(HEAD_BYTES);
  #headBytes = 0;
  #body: Buffer | undefined;
  #bodyBytes = 0;

  /**
   * @param encoding what `grpc-encoding` says
   * @param mostBytes of a message, before and after it is unpacked
   */
  constructor(encoding: string | undefined, mostBytes: number) {
    this.#encoding = encoding;
    this.#mostBytes = mostBytes;
  }

  /** Whether it is in the middle of a message. */
  get partial(): boolean {
    return this.#headBytes > 0;
  }

  /**
   * The messages that `view` completes, each a copy.
   *
   * @throws MessageError RESOURCE_EXHAUSTED when one is too large, UNIMPLEMENTED for an encoding that is not known,
   *   INTERNAL for what cannot be unpacked
   */
  *read(view: Buffer): Iterable<Buffer> {
    let at = 0;
    while (at < view.length) {
      if (this.#body === undefined) {
        const n = Math.min(HEAD_BYTES - this.#headBytes, view.length - at);
        view.copy(this.#head, this.#headBytes, at, at + n);
        this.#headBytes += n;
        at += n;
        if (this.#headBytes < HEAD_BYTES) return;
        const length = this.#head.readUInt32BE(1);
        if (length > this.#mostBytes) throw tooLarge(this.#mostBytes);
        this.#body = Buffer.allocUnsafe(length);
        this.#bodyBytes = 0;
      }
      const body = this.#body;
      const n = Math.min(body.length - this.#bodyBytes, view.length - at);
      view.copy(body, this.#bodyBytes, at, at + n);
      this.#bodyBytes += n;
      at += n;
      if (this.#bodyBytes < body.length) return;
      this.#body = undefined;
      this.#headBytes = 0;
      yield this.#head.readUInt8(0) === 0 ? body : this.#unpacked(body);
    }
  }

  #unpacked(body: Buffer): Buffer {
    if ((this.#head.readUInt8(0) & ~COMPRESSED) !== 0)
      throw new MessageError(status.INTERNAL, 'an unknown message flag');
    // Loaded when the first one comes: neither kubelet nor crictl compresses.
    const { gunzipSync, inflateSync } = process.getBuiltinModule('node:zlib');
    const unpack = this.#encoding === 'gzip' ? gunzipSync : this.#encoding === 'deflate' ? inflateSync : undefined;
    if (unpack === undefined) {
      throw new MessageError(status.UNIMPLEMENTED, `grpc-encoding "${this.#encoding ?? ''}" is not understood`);
    }
    try {
      return unpack(body, { maxOutputLength: this.#mostBytes });
    } catch (error) {
      if (error instanceof RangeError) throw tooLarge(this.#mostBytes);
      throw new MessageError(status.INTERNAL, `the message is not ${this.#encoding}: ${String(error)}`);
    }
  }
}

function tooLarge(mostBytes: number): MessageError {
  return new MessageError(status.RESOURCE_EXHAUSTED, `the message has more than ${mostBytes} bytes`);
}
