import type { Fields } from './fields.ts';
import { Flag, FrameType } from './frames.ts';
import type { Output } from './output.ts';
import { ViewQueue } from './queue.ts';

/**
 * Why a stream ended before both sides had finished.
 *
 *   peer         RST_STREAM came; the code is the peer's
 *   protocol     the peer broke the rules of this stream, which was reset for that
 *   unprocessed  the peer has not looked at it and says so (REFUSED_STREAM, GOAWAY), or it was never sent
 *   connection   the connection is gone
 */
export type ResetCause = 'peer' | 'protocol' | 'unprocessed' | 'connection';

/** What happens on a stream. After `onReset`, and when both sides have ended, only `onClosed` is called. */
export interface StreamHandler {
  /** The response of a client's stream; also interim ones (1xx), which are followed by another. */
  onHeaders(headers: Fields, endStream: boolean): void;
  /**
   * Data, to be given back with `consumed` when it has been dealt with. The view is good until this returns, as the memory is
   * read into again: copy what must stay, or give it to `sendData`. With `headroom` the nine bytes before it may be
   * overwritten, which is what `sendData` wants.
   */
  onData(view: Buffer, endStream: boolean, headroom: boolean): void;
  /** The last thing to come. */
  onTrailers(trailers: Fields): void;
  onReset(code: number, cause: ResetCause): void;
  /** So many bytes of what was given to `sendData` have left this stream. Called from within `sendData`, or later. */
  onTaken(bytes: number): void;
  /** The queue was not empty, and is now. */
  onWritable(): void;
  /** Both sides have ended, or it was reset, by whomever. The last call there is. */
  onClosed?(): void;
}

/** What a stream needs of its connection. */
export interface StreamHost {
  readonly output: Output;
  readonly peerMaxFrameSize: number;
  readonly streamWindowBytes: number;
  /** The connection's window towards the peer. */
  sendWindow: number;
  writeHeaders(streamId: number, fields: Fields, endStream: boolean): void;
  /** Gives the stream its id, or keeps it until the peer allows another one; false if it cannot even wait. */
  start(stream: Stream): boolean;
  /** The stream's queue has grown or shrunk. */
  queued(stream: Stream, bytes: number): void;
  /** Bytes of the stream have been dealt with. */
  credit(bytes: number): void;
  /** Both sides have ended, or it was reset. */
  release(stream: Stream): void;
}

/** One HTTP/2 stream, of either role. Everything that is public and not marked internal is for its user. */
export class Stream {
  readonly #host: StreamHost;
  /** 0 while it waits for the peer to allow another stream. */
  id: number;
  handler: StreamHandler;

  /** @internal What the peer allows; may be negative (RFC 9113 6.9.2). */
  sendWindow = 0;
  /** @internal What the peer is still allowed. */
  recvWindow: number;
  /** @internal */
  headersSeen = false;
  /** @internal */
  remoteEnded = false;
  /** Nothing can be sent any more, and nothing comes. */
  closed = false;

  readonly #queue = new ViewQueue();
  #localEnded = false; // END_STREAM is in the output
  #ending = false; // nothing more is taken from the user
  #endWithQueue = false;
  #pendingHeaders: { fields: Fields; endStream: boolean } | undefined;
  #trailers: Fields | undefined;
  #resetWhenSent: number | undefined;
  #unconsumed = 0;
  #credit = 0;

  readonly #sendQueued = (view: Buffer, headroom: boolean): void =>
    this.#frame(view, this.#endWithQueue && this.#queue.bytes === 0, headroom);

  constructor(host: StreamHost, id: number, handler: StreamHandler) {
    this.#host = host;
    this.id = id;
    this.handler = handler;
    this.recvWindow = host.streamWindowBytes;
  }

  /** Bytes that wait for a window or for the socket. */
  get queuedBytes(): number {
    return this.#queue.bytes;
  }

  /** Whether END_STREAM has been sent. */
  get ended(): boolean {
    return this.#localEnded;
  }

  sendHeaders(fields: Fields, endStream: boolean): void {
    if (this.closed || this.#ending) return;
    if (endStream) this.#ending = true;
    if (this.id === 0) {
      this.#pendingHeaders = { fields, endStream };
      if (!this.#host.start(this)) this.onReset(REFUSED_STREAM, 'unprocessed');
      return;
    }
    this.#host.writeHeaders(this.id, fields, endStream);
    if (endStream) this.#endLocal();
  }

  /**
   * Sends as much as the peer's windows allow and keeps the rest. There is no limit to it here: a user that credits its
   * source in `onTaken` never has more in the queue than its source's window.
   */
  sendData(view: Buffer, endStream: boolean, headroom = false): void {
    if (this.closed || this.#ending) return;
    if (endStream) this.#ending = true;
    if (this.id !== 0 && this.#queue.bytes === 0) {
      const sent = this.#transmit(view, endStream, headroom);
      if (sent < view.length) this.#enqueue(sent === 0 ? view : view.subarray(sent), endStream, headroom && sent === 0);
      if (sent > 0) this.handler.onTaken(sent);
    } else {
      this.#enqueue(view, endStream, headroom);
    }
  }

  sendTrailers(trailers: Fields): void {
    if (this.closed || this.#ending) return;
    this.#ending = true;
    if (this.#queue.bytes > 0 || this.id === 0) {
      this.#trailers = trailers;
    } else {
      this.#host.writeHeaders(this.id, trailers, true);
      this.#endLocal();
    }
  }

  /** Ends both directions at once; what is queued is dropped. Of it the handler is told by `onClosed` alone. */
  reset(code: number): void {
    if (this.closed) return;
    if (this.id !== 0) this.#host.output.number32(FrameType.RST_STREAM, this.id, code);
    this.#close();
    this.handler.onClosed?.();
  }

  /**
   * Resets the stream as soon as everything up to END_STREAM has been sent: how a server says that it does not want the
   * rest of a request (RFC 9113 8.1).
   */
  resetWhenSent(code: number): void {
    if (this.closed) return;
    if (this.#localEnded) this.reset(code);
    else this.#resetWhenSent = code;
  }

  /** Gives the peer back so many of the bytes it has sent. */
  consumed(bytes: number): void {
    if (this.#unconsumed === 0) return;
    const n = Math.min(bytes, this.#unconsumed);
    this.#unconsumed -= n;
    this.#host.credit(n);
    if (this.remoteEnded || this.closed) return;
    this.#credit += n;
    if (this.#credit >= this.#host.streamWindowBytes / 2 || this.#credit >= this.recvWindow) {
      this.#host.output.number32(FrameType.WINDOW_UPDATE, this.id, this.#credit);
      this.recvWindow += this.#credit;
      this.#credit = 0;
    }
  }

  /** @internal */
  received(bytes: number): void {
    this.#unconsumed += bytes;
  }

  /** @internal Padding is nobody's to consume. */
  receivedPadding(bytes: number): void {
    this.#unconsumed += bytes;
    this.consumed(bytes);
  }

  /** @internal The connection has given it an id. */
  onStarted(id: number, sendWindow: number): void {
    this.id = id;
    this.sendWindow = sendWindow;
    const pending = this.#pendingHeaders;
    if (pending === undefined) return;
    this.#pendingHeaders = undefined;
    this.#host.writeHeaders(id, pending.fields, pending.endStream);
    if (pending.endStream) this.#endLocal();
    else this.pump(Number.POSITIVE_INFINITY);
  }

  /** @internal Sends what windows and socket allow, at most about `quantum` bytes; returns how much that was. */
  pump(quantum: number): number {
    if (this.closed || this.id === 0) return 0;
    let taken = 0;
    while (this.#queue.bytes > 0 && taken < quantum) {
      const most = Math.min(this.sendWindow, this.#host.sendWindow, this.#host.peerMaxFrameSize);
      if (most <= 0 || this.#host.output.blocked) break;
      const before = this.#queue.bytes;
      this.#queue.shift(most, this.#sendQueued);
      taken += before - this.#queue.bytes;
    }
    if (taken > 0) {
      this.#host.queued(this, -taken);
      this.handler.onTaken(taken);
    }
    if (this.#queue.bytes > 0 || this.closed) return taken;
    if (this.#trailers !== undefined) {
      this.#host.writeHeaders(this.id, this.#trailers, true);
      this.#trailers = undefined;
      this.#endLocal();
    } else if (this.#endWithQueue && !this.#localEnded) {
      if (taken === 0) this.#frame(EMPTY, true, false);
      this.#endLocal();
    } else if (taken > 0) {
      this.handler.onWritable();
    }
    return taken;
  }

  /** @internal The peer has sent END_STREAM, and the handler has been told. */
  endRemote(): void {
    this.remoteEnded = true;
    if (this.#localEnded && !this.closed) this.#finish();
  }

  /** @internal */
  onReset(code: number, cause: ResetCause): void {
    if (this.closed) return;
    this.#close();
    this.handler.onReset(code, cause);
    this.handler.onClosed?.();
  }

  #enqueue(view: Buffer, endStream: boolean, headroom: boolean): void {
    if (endStream) this.#endWithQueue = true;
    this.#queue.push(view, headroom);
    this.#host.queued(this, view.length);
  }

  #transmit(view: Buffer, endStream: boolean, headroom: boolean): number {
    const length = view.length;
    const host = this.#host;
    let sent = 0;
    while (sent < length) {
      const most = Math.min(this.sendWindow, host.sendWindow, host.peerMaxFrameSize);
      if (most <= 0 || host.output.blocked) return sent;
      const whole = sent === 0 && length <= most;
      const end = whole ? length : Math.min(sent + most, length);
      this.#frame(whole ? view : view.subarray(sent, end), endStream && end === length, headroom && sent === 0);
      sent = end;
    }
    if (endStream) {
      if (length === 0) this.#frame(view, true, false);
      this.#endLocal();
    }
    return sent;
  }

  #frame(view: Buffer, endStream: boolean, headroom: boolean): void {
    this.sendWindow -= view.length;
    this.#host.sendWindow -= view.length;
    this.#host.output.data(this.id, view, endStream ? Flag.END_STREAM : 0, headroom);
  }

  #endLocal(): void {
    this.#localEnded = true;
    this.#ending = true;
    if (this.closed) return;
    if (this.remoteEnded) this.#finish();
    else if (this.#resetWhenSent !== undefined) this.reset(this.#resetWhenSent);
  }

  // What was received and not consumed stays on the connection's account until it is.
  #finish(): void {
    this.closed = true;
    this.#host.release(this);
    this.handler.onClosed?.();
  }

  #close(): void {
    this.closed = true;
    const queued = this.#queue.bytes;
    this.#queue.clear();
    if (queued > 0) this.#host.queued(this, -queued);
    const unconsumed = this.#unconsumed;
    this.#unconsumed = 0;
    if (unconsumed > 0) this.#host.credit(unconsumed);
    this.#trailers = undefined;
    this.#pendingHeaders = undefined;
    this.#host.release(this);
  }
}

const EMPTY = Buffer.alloc(0);
const REFUSED_STREAM = 7;

/** For a stream of which nobody wants to hear. */
export const NOBODY: StreamHandler = {
  onHeaders: () => undefined,
  onData: () => undefined,
  onTrailers: () => undefined,
  onReset: () => undefined,
  onTaken: () => undefined,
  onWritable: () => undefined,
};
