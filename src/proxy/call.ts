import { messageOf } from '../errors.ts';
import { type StatusCode, status } from '../grpc-status.ts';
import type { Log } from '../log.ts';
import { timeoutField, timeoutOf } from './deadline.ts';
import type { InFlight } from './drain.ts';
import type { Connection } from './h2/connection.ts';
import { type Field, type Fields, fieldValue } from './h2/fields.ts';
import { type CallEnd, type Loss, type Progress, Splice, type SpliceObserver } from './h2/splice.ts';
import type { Stream } from './h2/stream.ts';
import type { Prepared } from './intercept/interception.ts';
import { Rewriting } from './intercept/rewriting.ts';
import { framed, MessageError } from './messages.ts';
import { type Kind, METHODS } from './methods.ts';
import type { ObservedCall } from './observe.ts';
import { codeOf, statusFields, statusOfReset } from './status.ts';
import type { Upstream } from './upstream.ts';

/**
 * One call: waits for the runtime, has its two streams joined, and decides what the client is told when something breaks.
 * What happens to the frames, and the states of a call, are `Splice`'s.
 */
export class Call implements SpliceObserver, InFlight {
  readonly #splice: Splice;
  readonly #path: string;
  readonly #upstream: Upstream;
  readonly #log: Log;
  readonly #observed: ObservedCall;
  readonly #whenClosed: (call: Call) => void;
  #heldSince: number | undefined;
  #waiting: AbortController | undefined;
  #connection: Connection | undefined;
  // What the client is told, or has been when nothing else came first.
  #code: number = status.CANCELLED;
  #message: string | undefined;
  #decided = false;

  /** @param whenClosed is called when nothing of the call is left */
  constructor(
    down: Stream,
    path: string,
    headers: Fields,
    endStream: boolean,
    upstream: Upstream,
    log: Log,
    observed: ObservedCall,
    whenClosed: (call: Call) => void,
  ) {
    this.#path = path;
    this.#upstream = upstream;
    this.#log = log;
    this.#observed = observed;
    this.#whenClosed = whenClosed;
    this.#splice = new Splice(down, headers, endStream, this);
    this.#splice.peek = observed.peek;
  }

  /** Asked seldom, and so not found out for every call. */
  get endless(): boolean {
    return this.#kind === 'watch';
  }

  get reads(): boolean {
    return this.#kind === 'read';
  }

  get runs(): boolean {
    return this.#method === 'ExecSync';
  }

  get #kind(): Kind | undefined {
    return METHODS[this.#method]?.kind;
  }

  get #method(): string {
    return this.#path.slice(this.#path.lastIndexOf('/') + 1);
  }

  /** The call was intercepted: its request has been read, and perhaps changed. Before `start`. */
  resume({ request, rewriter, heldSince }: Prepared): void {
    this.#heldSince = heldSince;
    this.#splice.preload(framed(request));
    if (rewriter !== undefined) {
      this.#splice.stageAnswer(new Rewriting(rewriter, this.#splice.down, (error) => this.#crash(error)));
    }
  }

  /** Sends the request upstream, as soon as there is an upstream; it is never sent twice. */
  start(upstreamWaitMs: number): Splice {
    this.#observed.forwarding();
    const connection = this.#upstream.openSession();
    if (connection !== undefined) this.#forward(connection);
    else this.#wait(upstreamWaitMs).catch((error) => this.#crash(error));
    return this.#splice;
  }

  fail(code: StatusCode, message: string): void {
    if (this.#decided || this.#splice.down.closed) return;
    this.#decide(code, message);
    this.#splice.fail(statusFields(code, message));
  }

  // ---- SpliceObserver

  onLoss(_splice: Splice, _progress: Progress, loss: Loss): Fields | undefined {
    const containerd = `containerd at ${this.#upstream.path}`;
    switch (loss.kind) {
      case 'connection':
        return this.#lost(
          status.UNAVAILABLE,
          `${containerd} closed the connection while the call was in flight; it may have been carried out or not`,
        );
      case 'no-status':
        return this.#lost(
          status.UNAVAILABLE,
          `${containerd} ended the call without a status; it may have been carried out or not`,
        );
      case 'protocol':
        return this.#lost(
          status.INTERNAL,
          `${containerd} broke the HTTP/2 protocol (code ${loss.code}); the call may have been carried out or not`,
        );
      case 'unprocessed':
        if (this.#connection?.closed === true) {
          return this.#lost(
            status.UNAVAILABLE,
            `${containerd} closed the connection before the call was sent; it was not carried out`,
          );
        }
        this.#decide(status.UNAVAILABLE, 'the runtime refused the stream');
        return undefined;
      case 'reset':
        // The runtime's own decision (a deadline, a refusal): the code says which, and gRPC gives every code a status.
        this.#decide(statusOfReset(loss.code), `the runtime reset the stream with code ${loss.code}`);
        return undefined;
    }
  }

  onEnd(splice: Splice, end: CallEnd): void {
    if (end.kind === 'answered') {
      this.#decide(codeOf(end.status), splice.last && fieldValue(splice.last, 'grpc-message'));
    } else if (end.kind === 'crashed') this.#decide(status.INTERNAL, 'gantry could not relay the call');
    this.#waiting?.abort();
  }

  onClosed({ bytesUp, bytesDown }: Splice): void {
    if (this.#observed.countsBytes) Object.assign(this.#observed, { bytesUp, bytesDown });
    this.#observed.ended(this.#code, this.#message);
    this.#whenClosed(this);
  }

  // ----

  async #wait(ms: number): Promise<void> {
    this.#heldSince ??= performance.now();
    this.#waiting = new AbortController();
    const signal = AbortSignal.any([AbortSignal.timeout(ms), this.#waiting.signal]);
    const connection = await this.#upstream.waitForSession(signal);
    if (connection !== undefined) this.#forward(connection);
    else {
      this.fail(
        status.UNAVAILABLE,
        `containerd at ${this.#upstream.path} is not there; gantry waited ${ms} ms for it. The call was not sent.`,
      );
    }
  }

  #forward(connection: Connection): void {
    const timeout = this.#timeoutLeft();
    if (timeout === 'passed') {
      this.fail(status.DEADLINE_EXCEEDED, 'the deadline passed before the call could be sent');
      return;
    }
    this.#connection = connection;
    this.#splice.forward(connection, { path: this.#upstream.pathFor(this.#path), timeout });
  }

  /** What the runtime is to be told of the deadline, if that is not what the client said; undefined otherwise. */
  #timeoutLeft(): Field | 'passed' | undefined {
    if (this.#heldSince === undefined) return undefined;
    const ms = timeoutOf(this.#splice.headers) - (performance.now() - this.#heldSince);
    if (ms === Number.POSITIVE_INFINITY) return undefined;
    return ms > 0 ? timeoutField(ms) : 'passed';
  }

  #lost(code: StatusCode, message: string): Fields {
    this.#decide(code, message);
    return statusFields(code, message);
  }

  #decide(code: number, message: string | undefined): void {
    if (this.#decided) return;
    this.#decided = true;
    this.#code = code;
    this.#message = message;
    this.#observed.answered();
  }

  #crash(error: unknown): void {
    if (error instanceof MessageError) {
      this.fail(error.code, error.message);
      return;
    }
    this.#log.error('internal-error', { reason: messageOf(error) });
    this.fail(status.INTERNAL, `gantry could not relay the call: ${messageOf(error)}`);
  }
}
