import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  constants,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
  type ServerStreamResponseOptions,
} from 'node:http2';
import { status } from '@grpc/grpc-js';
import { errnoOf, messageOf } from '../errors.ts';
import type { Log } from '../log.ts';
import { type RawHeaders, responseHeaders, trailersFrom } from './headers.ts';
import type { ObservedCall } from './observe.ts';
import { codeOf, type StatusCode, statusOfReset, statusTrailers, textOf, trailersOnly } from './status.ts';
import { stopRequest } from './stop.ts';
import type { Upstream } from './upstream.ts';

const { NGHTTP2_FLAG_END_STREAM, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR } = constants;

/**
 * How far a call has come. What the client may be told when something breaks depends on nothing else.
 *
 *   waiting    the runtime is away; nothing was forwarded, nothing is read from the client
 *   forwarded  the runtime has the request, or part of it; a loss is answered trailers-only
 *   answering  its response headers were passed on; a loss ends in trailers
 *   answered   the status is on its way to the client; what is left is closing both sides
 */
type State =
  | { kind: 'waiting' }
  | { kind: 'forwarded'; session: ClientHttp2Session; up: ClientHttp2Stream }
  | { kind: 'answering'; session: ClientHttp2Session; up: ClientHttp2Stream; needsStatus: boolean }
  | { kind: 'answered'; up?: ClientHttp2Stream };

/** One call: two HTTP/2 streams whose frames are passed from one to the other until both are closed. */
export class Call {
  readonly #down: ServerHttp2Stream;
  readonly #upstream: Upstream;
  readonly #log: Log;
  readonly #observed: ObservedCall;
  // Aborting is the one way to reset a stream that Node offers: `close` ends the writable side first, and upstream an
  // unfinished request would look finished for a moment.
  readonly #cancel = new AbortController();
  #state: State = { kind: 'waiting' };
  readonly #endsWithHeaders: boolean;
  #trailers: Record<string, string | string[]> = {};
  #upError: unknown;
  // What the client is told, or is to be told when nothing else comes first.
  #code: number = status.CANCELLED;
  #message: string | undefined;

  constructor(down: ServerHttp2Stream, upstream: Upstream, log: Log, observed: ObservedCall, endsWithHeaders: boolean) {
    this.#down = down;
    this.#upstream = upstream;
    this.#log = log;
    this.#observed = observed;
    this.#endsWithHeaders = endsWithHeaders;
    down.on('aborted', this.#guard(this.#onDownGone));
    down.on('close', this.#guard(this.#onDownGone));
    down.on('wantTrailers', this.#guard(this.#onWantTrailers));
    down.on('close', this.#guard(this.#onDownClose));
  }

  /** Sends the request upstream, as soon as there is an upstream; it is never sent twice. */
  async start(headers: RawHeaders, upstreamWaitMs: number): Promise<void> {
    try {
      this.#observed.forwarding();
      const session = this.#upstream.openSession() ?? (await this.#wait(upstreamWaitMs));
      if (this.#state.kind !== 'waiting' || this.#down.destroyed) return;
      if (session === undefined) {
        this.#fail(
          status.UNAVAILABLE,
          `containerd at ${this.#upstream.path} is not there; gantry waited ${upstreamWaitMs} ms for it. The call was not sent.`,
        );
      } else {
        this.#forward(session, headers);
      }
    } catch (error) {
      this.#crash(error);
    }
  }

  /** Ends the call with a status of the relay's own, in whatever form the client can still take it. */
  fail(code: StatusCode, message: string): void {
    this.#guard(() => this.#fail(code, message))();
  }

  #fail(code: StatusCode, message: string): void {
    if (this.#state.kind === 'answered' || this.#down.destroyed || this.#down.closed) return;
    const up = 'up' in this.#state ? this.#state.up : undefined;
    this.#state = { kind: 'answered', ...(up && { up }) };
    up?.unpipe(this.#down);
    this.#decide(code, message);
    if (this.#down.headersSent) {
      this.#trailers = statusTrailers(code, message);
      this.#down.end();
    } else {
      this.#down.respond(trailersOnly(code, message), respondOptions({ endStream: true }));
    }
    stopRequest(this.#down);
    this.#cancel.abort();
  }

  async #wait(ms: number): Promise<ClientHttp2Session | undefined> {
    return this.#upstream.waitForSession(AbortSignal.any([AbortSignal.timeout(ms), this.#cancel.signal]));
  }

  #forward(session: ClientHttp2Session, headers: RawHeaders): void {
    const up = session.request(headers, { endStream: this.#endsWithHeaders, signal: this.#cancel.signal });
    this.#state = { kind: 'forwarded', session, up };
    up.on('error', (error) => {
      this.#upError = error;
    });
    up.on('response', this.#guard(this.#onResponse));
    up.on('trailers', (_headers, _flags, raw) => {
      if (this.#state.kind === 'answering') this.#trailers = trailersFrom(raw);
    });
    up.on('end', this.#guard(this.#onUpEnd));
    up.on('close', this.#guard(this.#onUpClose));
    if (this.#observed.countsBytes) this.#down.on('data', (chunk: Buffer) => this.#countBytes(chunk.length, 0));
    // A reset ends the readable side, too, but 'aborted' comes first: the upstream stream is gone by then.
    this.#down.pipe(up);
  }

  #onResponse(headers: IncomingHttpHeaders, flags: number, raw: RawHeaders): void {
    if (this.#state.kind !== 'forwarded' || this.#down.destroyed || this.#down.closed) return;
    const { session, up } = this.#state;
    if ((flags & NGHTTP2_FLAG_END_STREAM) !== 0) {
      this.#state = { kind: 'answered', up };
      this.#decide(codeOf(headers['grpc-status']), textOf(headers['grpc-message']));
      this.#down.respond(responseHeaders(raw, headers), respondOptions({ endStream: true }));
      up.resume();
    } else {
      const needsStatus = isGrpc(headers) && headers['grpc-status'] === undefined;
      this.#state = { kind: 'answering', session, up, needsStatus };
      this.#down.respond(responseHeaders(raw, headers), respondOptions({ waitForTrailers: true }));
      if (this.#observed.countsBytes) up.on('data', (chunk: Buffer) => this.#countBytes(0, chunk.length));
      up.pipe(this.#down, { end: false });
    }
  }

  // Node ends a stream's readable side when the peer resets it, too: only a status makes it the end of the answer.
  #onUpEnd(): void {
    if (this.#state.kind !== 'answering') return;
    const { session, up, needsStatus } = this.#state;
    const whole = needsStatus ? 'grpc-status' in this.#trailers : up.rstCode === 0 && !session.destroyed;
    if (whole) {
      this.#state = { kind: 'answered', up };
      this.#decide(codeOf(this.#trailers['grpc-status']), textOf(this.#trailers['grpc-message']));
      this.#down.end();
    } else {
      this.#conclude();
    }
  }

  #onUpClose(): void {
    this.#conclude();
    if (!this.#down.readableEnded) stopRequest(this.#down);
  }

  /** The upstream stream is over without a status. */
  #conclude(): void {
    if (this.#state.kind !== 'forwarded' && this.#state.kind !== 'answering') return;
    const { session, up } = this.#state;
    const containerd = `containerd at ${this.#upstream.path}`;
    if (session.destroyed) {
      this.#fail(
        status.UNAVAILABLE,
        `${containerd} closed the connection while the call was in flight; it may have been carried out or not`,
      );
    } else if (this.#upError !== undefined && errnoOf(this.#upError) !== 'ERR_HTTP2_STREAM_ERROR') {
      this.#fail(status.INTERNAL, `gantry could not pass the call on to ${containerd}: ${messageOf(this.#upError)}`);
    } else if (up.rstCode !== NGHTTP2_NO_ERROR) {
      // The runtime's own decision (a deadline, a refusal): the code says which, and gRPC gives every code a status.
      this.#state = { kind: 'answered', up };
      this.#decide(statusOfReset(up.rstCode), `the runtime reset the stream with code ${up.rstCode}`);
      this.#down.close(up.rstCode);
    } else {
      this.#fail(
        status.UNAVAILABLE,
        `${containerd} ended the call without a status; it may have been carried out or not`,
      );
    }
  }

  #onWantTrailers(): void {
    this.#down.sendTrailers(this.#trailers);
  }

  // Everything that is still open upstream is cancelled; after an answer that is at most the rest of the request.
  #onDownGone(): void {
    const up = 'up' in this.#state ? this.#state.up : undefined;
    this.#state = { kind: 'answered', ...(up && { up }) };
    if (up?.closed !== true) this.#cancel.abort();
    up?.resume(); // a stream closes only when all that it received was read
  }

  #onDownClose(): void {
    this.#observed.ended(this.#code, this.#message);
  }

  #decide(code: number, message: string | undefined): void {
    this.#code = code;
    this.#message = message;
    this.#observed.answered();
  }

  #countBytes(up: number, down: number): void {
    this.#observed.bytesUp += up;
    this.#observed.bytesDown += down;
  }

  /** An event handler that throws ends its own call and nothing else. */
  #guard<A extends unknown[]>(handler: (...args: A) => void): (...args: A) => void {
    return (...args) => {
      try {
        handler.apply(this, args);
      } catch (error) {
        this.#crash(error);
      }
    };
  }

  #crash(error: unknown): void {
    this.#log.error('internal-error', { reason: messageOf(error) });
    try {
      if (this.#state.kind === 'answered') this.#down.close(NGHTTP2_INTERNAL_ERROR);
      else this.#fail(status.INTERNAL, `gantry could not relay the call: ${messageOf(error)}`);
    } catch {
      this.#down.destroy();
    }
  }
}

function isGrpc(headers: IncomingHttpHeaders): boolean {
  return headers['content-type']?.startsWith('application/grpc') === true;
}

// Without sendDate: false Node adds a header of its own to every answer; its type does not know the option.
function respondOptions(options: ServerStreamResponseOptions): ServerStreamResponseOptions & { sendDate: boolean } {
  return { ...options, sendDate: false };
}
