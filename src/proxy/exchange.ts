import { type StatusCode, status } from '../grpc-status.ts';
import { type Fields, fieldValue } from './h2/fields.ts';
import { ErrorCode } from './h2/frames.ts';
import type { Stream, StreamHandler } from './h2/stream.ts';
import { framed, MessageError, MessageReader } from './messages.ts';
import { ANSWER_HEADERS, statusFields, trailersOnly } from './status.ts';

/** How a call that the relay has answered itself has ended. */
export interface Answered {
  code: StatusCode;
  message: string;
}

/**
 * The client's side of a call whose request, one message, the relay reads itself: it is given to `onRequest`, and whoever
 * gets it answers here, or gives the stream another handler.
 */
export class Exchange implements StreamHandler {
  readonly #down: Stream;
  readonly #onRequest: (request: Uint8Array) => void;
  readonly #onRefused: (why: Answered) => void;
  readonly #onGone: () => void;
  readonly #reader: MessageReader;
  #request: Uint8Array | undefined;
  #done = false; // the request has been given on, or refused
  #abort: AbortController | undefined;
  #aborted = false;
  #gone = false;
  #headersSent = false;
  #whenTaken: (() => void) | undefined;

  /**
   * @param mostBytes of the request message
   * @param on what happens, each at most once: the request has come, or is none and has to be answered so, or the client
   *   has gone
   */
  constructor(
    down: Stream,
    headers: Fields,
    mostBytes: number,
    on: { request: (request: Uint8Array) => void; refused: (why: Answered) => void; gone: () => void },
  ) {
    this.#down = down;
    this.#onRequest = on.request;
    this.#onRefused = on.refused;
    this.#onGone = on.gone;
    this.#reader = new MessageReader(fieldValue(headers, 'grpc-encoding'), mostBytes);
    down.handler = this;
  }

  /** Aborts when the client has given the call up, or `abort` was called. Nothing is waited for from then on. */
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#aborted) this.#abort.abort();
    }
    return this.#abort.signal;
  }

  get aborted(): boolean {
    return this.#aborted;
  }

  /** The client has given the call up. */
  get gone(): boolean {
    return this.#gone;
  }

  /** For a call whose headers were all of it. */
  endRequest(): void {
    if (this.#done) return;
    this.#done = true;
    const request = this.#request;
    if (request === undefined || this.#reader.partial) this.#refuse(status.INTERNAL, 'the request is not one message');
    else this.#onRequest(request);
  }

  abort(): void {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#abort?.abort();
    this.#whenTaken?.();
  }

  /** Headers first, so that whoever follows something knows that it has begun. */
  sendHeaders(): void {
    if (this.#headersSent) return;
    this.#headersSent = true;
    this.#down.sendHeaders(ANSWER_HEADERS, false);
  }

  /** Resolves when there is room for more. */
  async send(message: Uint8Array): Promise<void> {
    this.sendHeaders();
    this.#down.sendData(framed(message), false);
    if (this.#down.queuedBytes === 0 || this.#aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#whenTaken = resolve;
    await promise;
  }

  end({ code, message }: Answered): void {
    if (this.#headersSent) this.#down.sendTrailers(statusFields(code, message));
    else this.#down.sendHeaders(trailersOnly(code, message), true);
    this.#down.resetWhenSent(ErrorCode.NO_ERROR);
  }

  // ---- StreamHandler

  onData(view: Buffer, endStream: boolean): void {
    if (this.#done) return; // nor is it given back: nobody wants it
    try {
      for (const message of this.#reader.read(view)) {
        if (this.#request !== undefined) throw new MessageError(status.INTERNAL, 'the request is not one message');
        this.#request = message;
      }
    } catch (error) {
      if (!(error instanceof MessageError)) throw error;
      this.#done = true;
      this.#refuse(error.code, error.message);
      return;
    }
    this.#down.consumed(view.length);
    if (endStream) this.endRequest();
  }

  onTrailers(): void {
    this.endRequest();
  }

  onReset(): void {
    this.#gone = true;
    this.abort();
    this.#onGone();
  }

  onWritable(): void {
    this.#whenTaken?.();
  }

  onHeaders(): void {
    // A server's stream has had its headers before it has a handler.
  }

  onTaken(): void {
    // Room is what counts.
  }

  #refuse(code: StatusCode, message: string): void {
    this.#onRefused({ code, message });
  }
}
