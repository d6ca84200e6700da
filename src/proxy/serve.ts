import { status } from '@grpc/grpc-js';
import { GantryError, REASONS } from '../errors.ts';
import { ErrorCode } from './h2/frames.ts';
import type { Stream, StreamHandler } from './h2/stream.ts';
import type { OwnMethod } from './own.ts';
import { ANSWER_HEADERS, type StatusCode, statusFields } from './status.ts';

// The requests of the relay's own methods are small.
const REQUEST_BYTES = 64 * 1024;
const HEAD_BYTES = 5; // flag and length (gRPC over HTTP/2, Length-Prefixed-Message)

/** How a call that the relay answered itself has ended. */
export interface Served {
  code: StatusCode;
  message: string;
}

const OK: Served = { code: status.OK, message: '' };
const STOPPING: Served = { code: status.UNAVAILABLE, message: 'gantry proxy is stopping' };

/** Answers one call by a method of the relay's own. Never rejects. `stopping` ends it early, with a status. */
export async function serve(
  down: Stream,
  endStream: boolean,
  method: OwnMethod,
  stopping: AbortSignal,
): Promise<Served> {
  const exchange = new Exchange(down, endStream, stopping);
  let end: Served;
  try {
    // Headers first, so that whoever follows something knows that it has begun.
    down.sendHeaders(ANSWER_HEADERS, false);
    end = await answer(exchange, method);
  } catch (error) {
    const { reason, message } = GantryError.from(error);
    end = { code: REASONS[reason].grpc, message };
  }
  if (exchange.gone) return { code: status.CANCELLED, message: '' };
  if (stopping.aborted && end.code !== status.OK) end = STOPPING;
  down.sendTrailers(statusFields(end.code, end.message));
  down.resetWhenSent(ErrorCode.NO_ERROR);
  return end;
}

async function answer(exchange: Exchange, method: OwnMethod): Promise<Served> {
  const { signal } = exchange;
  const body = await exchange.request;
  if (body === undefined) return STOPPING;
  const request = messageOf(body);
  if (!(request instanceof Uint8Array)) return request;
  for await (const message of method(request, signal)) {
    if (signal.aborted) break;
    await exchange.send(frame(message));
  }
  return signal.aborted ? STOPPING : OK;
}

/** A stream of a client, for one who wants to read and write in turn instead of being called. */
class Exchange implements StreamHandler {
  /** Aborts when the client has given the call up, or the relay stops. Nothing is waited for from then on. */
  readonly signal: AbortSignal;
  /** The request's body, or a little more than is allowed of it; undefined when there will be none. */
  readonly request: Promise<Buffer | undefined>;
  readonly #down: Stream;
  readonly #reset = new AbortController();
  readonly #resolveRequest: (body: Buffer | undefined) => void;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #whenTaken: (() => void) | undefined;

  constructor(down: Stream, endStream: boolean, stopping: AbortSignal) {
    this.#down = down;
    down.handler = this;
    this.signal = AbortSignal.any([this.#reset.signal, stopping]);
    const { promise, resolve } = Promise.withResolvers<Buffer | undefined>();
    this.request = promise;
    this.#resolveRequest = resolve;
    if (endStream) this.#endRequest();
    const giveUp = (): void => {
      resolve(undefined);
      this.#whenTaken?.();
    };
    if (this.signal.aborted) giveUp();
    else this.signal.addEventListener('abort', giveUp);
  }

  get gone(): boolean {
    return this.#reset.signal.aborted;
  }

  /** Resolves when there is room for more. */
  async send(bytes: Buffer): Promise<void> {
    this.#down.sendData(bytes, false);
    if (this.#down.queuedBytes === 0 || this.signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#whenTaken = resolve;
    await promise;
  }

  onData(view: Buffer, endStream: boolean): void {
    if (this.#bytes > REQUEST_BYTES) return; // nor is it given back: nobody wants it
    this.#bytes += view.length;
    this.#chunks.push(Buffer.from(view));
    this.#down.consumed(view.length);
    if (endStream || this.#bytes > REQUEST_BYTES) this.#endRequest();
  }

  onTrailers(): void {
    this.#endRequest();
  }

  onReset(): void {
    this.#reset.abort();
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

  #endRequest(): void {
    this.#resolveRequest(Buffer.concat(this.#chunks));
    this.#chunks = [];
  }
}

/** The one message of a request, or why it is none. */
function messageOf(body: Buffer): Uint8Array | Served {
  if (body.length > REQUEST_BYTES) {
    return { code: status.RESOURCE_EXHAUSTED, message: `the request has more than ${REQUEST_BYTES} bytes` };
  }
  if (body.length < HEAD_BYTES || body.readUInt32BE(1) !== body.length - HEAD_BYTES) {
    return { code: status.INTERNAL, message: 'the request is not one message' };
  }
  if (body.readUInt8(0) !== 0) return { code: status.UNIMPLEMENTED, message: 'compressed requests are not understood' };
  return body.subarray(HEAD_BYTES);
}

function frame(message: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(HEAD_BYTES + message.length);
  framed.writeUInt8(0, 0);
  framed.writeUInt32BE(message.length, 1);
  framed.set(message, HEAD_BYTES);
  return framed;
}
