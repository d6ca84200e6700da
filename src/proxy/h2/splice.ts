import type { Connection } from './connection.ts';
import { Field, type Fields, fieldValue } from './fields.ts';
import { ErrorCode } from './frames.ts';
import { ViewQueue } from './queue.ts';
import type { ResetCause, Stream, StreamHandler } from './stream.ts';

/**
 * How far a call has come. What the client may be told when something breaks depends on nothing else.
 *
 *   waiting    nothing was forwarded; what the client sends is kept, within its window
 *   forwarded  the runtime may have the request, or part of it; a loss is answered trailers-only
 *   answering  its response headers were passed on; a loss ends in trailers
 *   answered   the whole answer is on its way to the client
 *   broken     the call was reset, on either side
 */
export type Progress = 'waiting' | 'forwarded' | 'answering' | 'answered' | 'broken';

/** Why there will be no whole answer from the runtime. */
export type Loss =
  /** The runtime reset the stream: its own decision, with a code that gRPC gives a status to. */
  | { kind: 'reset'; code: number }
  /** The runtime has not looked at the call, which may be sent once more if nothing of its body has been. */
  | { kind: 'unprocessed' }
  /** The connection is gone; the call may have been carried out or not. */
  | { kind: 'connection' }
  /** The stream ended, or was reset with NO_ERROR, without a gRPC status. */
  | { kind: 'no-status' }
  /** The runtime broke the protocol of the stream. */
  | { kind: 'protocol'; code: number };

/** How a call ended, for logs and metrics. `status` is the gRPC status that the client was sent. */
export type CallEnd =
  | { kind: 'answered'; status: string | undefined }
  /** Answered with a status of the relay's own (`fail`, or what `onLoss` returned). */
  | { kind: 'failed' }
  | { kind: 'lost'; loss: Loss }
  | { kind: 'cancelled'; code: number; cause: ResetCause }
  /** A handler threw, and the call was reset for it. */
  | { kind: 'crashed' };

export interface SpliceObserver {
  /**
   * The runtime's side is lost before the whole answer has come. The status to end the call with (`grpc-status` and what
   * belongs to it; it is sent trailers-only or as trailers), or undefined to pass the reset on as it is.
   */
  onLoss(splice: Splice, progress: Progress, loss: Loss): Fields | undefined;
  onProgress?(splice: Splice, progress: Progress): void;
  /** Once, when the call is decided. `progress` is how far it had come before. */
  onEnd?(splice: Splice, end: CallEnd, progress: Progress): void;
  /** Once, after `onEnd`: the client's stream is over, because everything has been sent or because it was reset. */
  onClosed?(splice: Splice): void;
}

/** Stands in the way of an answer and decides what the client gets of it. */
export interface AnswerStage {
  /** The answer has begun. `credit` gives the runtime back bytes that `data` was given. */
  begin(headers: Fields, credit: (bytes: number) => void): void;
  /** Bytes of messages: what it makes of them it sends itself. Undefined: they cross as they are. */
  readonly data: ((view: Buffer) => void) | undefined;
  /** The client has taken some of what it had sent. */
  taken(): void;
  /** The runtime has ended the answer. Calls `send`, at once or later, when all that was before it has been sent. */
  end(last: Fields, send: (last: Fields) => void): void;
}

/** What is replaced in a request on its way to the runtime. */
export interface Replaced {
  readonly path?: Field | undefined;
  readonly timeout?: Field | undefined;
}

// kubelet sends the socket's path, percent-encoded, as authority; HTTP/2 servers other than grpc-go reject it.
const AUTHORITY = new Field(':authority', 'localhost');
const TRAILERS_ONLY: Fields = [new Field(':status', '200'), new Field('content-type', 'application/grpc')];

/** The request as it goes upstream: another authority, another path or timeout if need be, all else as it came. */
export function forwardedRequest(headers: Fields, { path, timeout }: Replaced = {}): Fields {
  const forwarded: Field[] = [];
  let authority = false;
  for (const one of headers) {
    if (one.name === ':authority') {
      forwarded.push(AUTHORITY);
      authority = true;
    } else if (path !== undefined && one.name === ':path') forwarded.push(path);
    else if (timeout !== undefined && one.name === timeout.name) forwarded.push(timeout);
    else forwarded.push(one);
  }
  if (!authority) forwarded.unshift(AUTHORITY);
  return forwarded;
}

/**
 * One call: a stream of a client and a stream to the runtime, joined. Bytes cross as they are; a side is given credit when
 * the other side's socket has taken them, so that the call never holds more than the two windows.
 */
export class Splice implements StreamHandler {
  readonly down: Stream;
  /** What has come of the messages, in either direction. */
  bytesUp = 0;
  bytesDown = 0;
  /** Sees the bytes of either direction, as they came. */
  peek: { request(view: Buffer): void; answer(view: Buffer): void } | undefined;
  readonly #observer: SpliceObserver;
  readonly #headers: Fields;
  readonly #upHandler: StreamHandler;
  #up: Stream | undefined;
  #progress: Progress = 'waiting';
  #early: ViewQueue | undefined; // of the request, until there is a stream for it
  #requestEnded: boolean;
  #requestTrailers: Fields | undefined;
  #needsStatus = false;
  #stage: AnswerStage | undefined;
  #answerComplete = false; // the runtime has said all; a stage may be still at work on it
  #last: Fields | undefined;
  #ended = false;

  /** Made in a server connection's `onStream`, which returns it; it is the stream's handler from here on. */
  constructor(down: Stream, headers: Fields, endStream: boolean, observer: SpliceObserver) {
    this.down = down;
    this.#headers = headers;
    this.#requestEnded = endStream;
    this.#observer = observer;
    this.#upHandler = new UpHandler(this);
    down.handler = this;
  }

  get progress(): Progress {
    return this.#progress;
  }

  get headers(): Fields {
    return this.#headers;
  }

  /** The header block that ended the runtime's answer: its trailers, or all of it. */
  get last(): Fields | undefined {
    return this.#last;
  }

  /** The body of the request, which somebody else has read. Before `forward`. */
  preload(body: Buffer): void {
    this.#early = new ViewQueue();
    this.#early.push(body);
    this.#requestEnded = true;
    this.bytesUp += body.length;
  }

  /** Before `forward`. */
  stageAnswer(stage: AnswerStage): void {
    this.#stage = stage;
  }

  /** Sends the request, now that there is a connection; what has come of its body follows. */
  forward(connection: Connection, replaced?: Replaced): void {
    if (this.#progress !== 'waiting' || this.down.closed) return;
    const up = connection.open(this.#upHandler);
    this.#up = up;
    this.#advance('forwarded');
    const early = this.#early;
    const bodyFollows = !this.#requestEnded || early !== undefined || this.#requestTrailers !== undefined;
    up.sendHeaders(forwardedRequest(this.#headers, replaced), !bodyFollows);
    if (!bodyFollows) return;
    this.#early = undefined;
    while (early !== undefined && early.bytes > 0) {
      early.shift(Number.POSITIVE_INFINITY, (view: Buffer) =>
        up.sendData(view, this.#requestEnded && this.#requestTrailers === undefined && early.bytes === 0),
      );
    }
    if (this.#requestTrailers !== undefined) up.sendTrailers(this.#requestTrailers);
  }

  /** Ends the call with a status of the relay's own, in whatever form the client can still take it. */
  fail(status: Fields): void {
    if (this.#ended) return;
    this.#answer(status, { kind: 'failed' });
    this.#up?.reset(ErrorCode.CANCEL);
  }

  // ---- the client's side

  onHeaders(): void {
    // A server's stream has had its headers before it has a handler.
  }

  onData(view: Buffer, endStream: boolean, headroom: boolean): void {
    this.bytesUp += view.length;
    this.peek?.request(view);
    if (endStream) this.#requestEnded = true;
    if (this.#up !== undefined) {
      // After an answer nobody takes the rest of the request; nor is it credited, and the client is told to stop.
      this.#up.sendData(view, endStream, headroom);
    } else if (view.length > 0) {
      this.#early ??= new ViewQueue();
      this.#early.push(view);
    }
  }

  onTrailers(trailers: Fields): void {
    this.#requestEnded = true;
    if (this.#up !== undefined) this.#up.sendTrailers(trailers);
    else this.#requestTrailers = trailers;
  }

  onReset(code: number, cause: ResetCause): void {
    this.#early?.clear();
    this.#early = undefined;
    const progress = this.#progress;
    this.#progress = 'broken';
    this.#end({ kind: 'cancelled', code, cause }, progress);
    this.#up?.reset(cause === 'peer' || cause === 'unprocessed' ? code : ErrorCode.CANCEL);
  }

  onClosed(): void {
    if (!this.#ended) this.#crash();
    this.#observer.onClosed?.(this);
  }

  /** Of the answer, so many bytes are on their way to the client. */
  onTaken(bytes: number): void {
    if (this.#stage?.data === undefined) this.#up?.consumed(bytes);
    else this.#stage.taken();
  }

  onWritable(): void {
    // Nothing is held back: credit does it.
  }

  // ---- the runtime's side (called by UpHandler)

  /** @internal */
  upHeaders(headers: Fields, endStream: boolean): void {
    if (this.#progress !== 'forwarded') return;
    if (endStream) {
      // Trailers-only, or an answer of no gRPC server.
      this.#endAnswer(headers, (last) => this.down.sendHeaders(last, true));
      return;
    }
    this.down.sendHeaders(headers, false);
    if (isInterim(headers)) return;
    const grpc = isGrpc(headers);
    if (grpc) this.#stage?.begin(headers, (bytes) => this.#up?.consumed(bytes));
    else this.#stage = undefined;
    this.#needsStatus = grpc && fieldValue(headers, 'grpc-status') === undefined;
    this.#advance('answering');
  }

  /** @internal */
  upData(view: Buffer, endStream: boolean, headroom: boolean): void {
    if (this.#progress !== 'answering') return;
    this.bytesDown += view.length;
    this.peek?.answer(view);
    if (this.#stage?.data !== undefined) {
      this.#stage.data(view);
      if (endStream) this.#lose({ kind: 'no-status' });
    } else if (!endStream) {
      this.down.sendData(view, false, headroom);
    } else if (this.#needsStatus) {
      if (view.length > 0) this.down.sendData(view, false, headroom);
      this.#lose({ kind: 'no-status' });
    } else {
      this.#finishAnswer(undefined, () => this.down.sendData(view, true, headroom));
    }
  }

  /** @internal */
  upTrailers(trailers: Fields): void {
    if (this.#progress !== 'answering') return;
    if (this.#needsStatus && fieldValue(trailers, 'grpc-status') === undefined) this.#lose({ kind: 'no-status' });
    else this.#endAnswer(trailers, (last) => this.down.sendTrailers(last));
  }

  /** @internal */
  upReset(code: number, cause: ResetCause): void {
    if (this.#progress === 'answered' || this.#answerComplete) {
      // After the whole answer it only says that the rest of the request is not wanted (RFC 9113 8.1).
      if (!this.down.closed) this.down.resetWhenSent(cause === 'peer' ? code : ErrorCode.NO_ERROR);
    } else if (cause === 'connection') this.#lose({ kind: 'connection' });
    else if (cause === 'unprocessed') this.#lose({ kind: 'unprocessed' });
    else if (cause === 'protocol') this.#lose({ kind: 'protocol', code });
    else this.#lose(code === ErrorCode.NO_ERROR ? { kind: 'no-status' } : { kind: 'reset', code });
  }

  /** @internal */
  upClosed(): void {
    if (this.#ended || this.#answerComplete) return;
    this.#crash();
    this.down.reset(ErrorCode.INTERNAL_ERROR);
  }

  /** @internal Of the request, so many bytes are on their way to the runtime. */
  upTaken(bytes: number): void {
    this.down.consumed(bytes);
  }

  #endAnswer(last: Fields, send: (last: Fields) => void): void {
    if (this.#stage === undefined) {
      this.#finishAnswer(last, () => send(last));
      return;
    }
    this.#answerComplete = true;
    this.#stage.end(last, (changed) => {
      if (!this.#ended) this.#finishAnswer(changed, () => send(changed));
    });
  }

  #finishAnswer(last: Fields | undefined, send: () => void): void {
    const progress = this.#progress;
    this.#last = last;
    this.#advance('answered');
    this.#end({ kind: 'answered', status: last && fieldValue(last, 'grpc-status') }, progress);
    send();
  }

  #lose(loss: Loss): void {
    if (this.#ended) return;
    const status = this.#observer.onLoss(this, this.#progress, loss);
    if (this.#ended) return; // the observer has failed it itself
    if (status !== undefined) {
      this.#answer(status, { kind: 'lost', loss });
      this.#up?.reset(ErrorCode.CANCEL);
      return;
    }
    const progress = this.#progress;
    this.#progress = 'broken';
    this.#end({ kind: 'lost', loss }, progress);
    this.#up?.reset(ErrorCode.CANCEL);
    const code = 'code' in loss ? loss.code : loss.kind === 'unprocessed' ? ErrorCode.REFUSED_STREAM : ErrorCode.CANCEL;
    this.down.reset(code);
  }

  /** A status of the relay's own: trailers if there have been headers, and all in one block otherwise. */
  #answer(status: Fields, end: CallEnd): void {
    const progress = this.#progress;
    this.#early?.clear();
    this.#early = undefined;
    this.#advance('answered');
    this.#end(end, progress);
    if (progress === 'answering') this.down.sendTrailers(status);
    else this.down.sendHeaders([...TRAILERS_ONLY, ...status], true);
    if (!this.down.closed) this.down.resetWhenSent(ErrorCode.NO_ERROR);
  }

  /** One side was reset because a handler threw; so is the other. */
  #crash(): void {
    const progress = this.#progress;
    this.#early?.clear();
    this.#early = undefined;
    this.#progress = 'broken';
    this.#end({ kind: 'crashed' }, progress);
    this.#up?.reset(ErrorCode.CANCEL);
  }

  #advance(progress: Progress): void {
    this.#progress = progress;
    this.#observer.onProgress?.(this, progress);
  }

  #end(end: CallEnd, progress: Progress): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#observer.onEnd?.(this, end, progress);
  }
}

/** The other face of a splice: what comes from the runtime. */
class UpHandler implements StreamHandler {
  readonly #splice: Splice;

  constructor(splice: Splice) {
    this.#splice = splice;
  }

  onHeaders(headers: Fields, endStream: boolean): void {
    this.#splice.upHeaders(headers, endStream);
  }

  onData(view: Buffer, endStream: boolean, headroom: boolean): void {
    this.#splice.upData(view, endStream, headroom);
  }

  onTrailers(trailers: Fields): void {
    this.#splice.upTrailers(trailers);
  }

  onReset(code: number, cause: ResetCause): void {
    this.#splice.upReset(code, cause);
  }

  onTaken(bytes: number): void {
    this.#splice.upTaken(bytes);
  }

  onWritable(): void {
    // Nothing is held back: credit does it.
  }

  onClosed(): void {
    this.#splice.upClosed();
  }
}

function isGrpc(headers: Fields): boolean {
  return fieldValue(headers, 'content-type')?.startsWith('application/grpc') === true;
}

function isInterim(headers: Fields): boolean {
  return fieldValue(headers, ':status')?.startsWith('1') === true;
}
