import { messageOf } from '../../errors.ts';
import { type StatusCode, status } from '../../grpc-status.ts';
import type { Log } from '../../log.ts';
import { timeoutOf } from '../deadline.ts';
import type { InFlight } from '../drain.ts';
import { type Answered, Exchange } from '../exchange.ts';
import type { Fields } from '../h2/fields.ts';
import type { Stream } from '../h2/stream.ts';
import { framed } from '../messages.ts';
import type { ObservedCall } from '../observe.ts';
import { answer, answeredBy } from '../serve.ts';
import type { AnswerRewriter, CallHead, Decision, HeldCall, Interceptor } from './interceptor.ts';
import { chained, MOST_MESSAGE_BYTES } from './rewriting.ts';

// What timers can hold.
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** A request that interceptors have let pass. */
export interface Prepared {
  /** The message, as it is to be sent. */
  readonly request: Uint8Array;
  readonly rewriter: AnswerRewriter | undefined;
  /** When the client's request came, if it has been held since: of the client's deadline only the rest is left. */
  readonly heldSince: number | undefined;
}

export interface InterceptionContext {
  readonly observed: ObservedCall;
  readonly log: Log;
  /** Takes the stream over: the call goes on to the runtime. */
  readonly pass: (prepared: Prepared) => void;
  /** Nothing of this is left; called once, before `pass` or at the end. */
  readonly whenOver: (interception: Interception) => void;
}

/**
 * A call that interceptors look at before the runtime may see it.
 *
 *   reading ── its message is there ──▶ deciding ── pass ──▶ a call as any other
 *      │                                   ├── answer ──▶ answering ──▶ over
 *      └── no message, client gone ──▶ over ◀── fail, deadline, client gone, relay stops
 */
export class Interception implements InFlight, HeldCall {
  readonly service: CallHead['service'];
  readonly method: string;
  readonly endless = false; // until it has been let pass
  readonly reads = false;
  readonly runs = false;
  readonly #interceptors: readonly Interceptor[];
  readonly #context: InterceptionContext;
  readonly #exchange: Exchange;
  readonly #arrivedAt = performance.now();
  readonly #headers: Fields;
  readonly #rewriters: AnswerRewriter[] = [];
  #held = false;
  #over = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    down: Stream,
    head: CallHead,
    headers: Fields,
    interceptors: readonly Interceptor[],
    context: InterceptionContext,
  ) {
    this.service = head.service;
    this.method = head.method;
    this.#headers = headers;
    this.#interceptors = interceptors;
    this.#context = context;
    this.#exchange = new Exchange(down, headers, MOST_MESSAGE_BYTES, {
      request: (request) => {
        context.observed.peek?.request(framed(request)); // as the client sent it
        this.#decide(0, request);
      },
      refused: (why) => this.#end(why),
      gone: () => this.#finish({ code: status.CANCELLED, message: '' }),
    });
  }

  /** For a request whose headers were all of it. */
  endRequest(): void {
    this.#exchange.endRequest();
  }

  get deadline(): number {
    return this.#arrivedAt + timeoutOf(this.#headers);
  }

  get signal(): AbortSignal {
    return this.#exchange.signal;
  }

  fail(code: StatusCode, message: string): void {
    this.#end({ code, message });
  }

  #decide(from: number, message: Uint8Array): void {
    let request: Uint8Array | undefined = message;
    for (const [index, interceptor] of this.#interceptors.entries()) {
      if (index < from) continue;
      let decision: Decision | Promise<Decision>;
      try {
        decision = interceptor.decide(request, this);
      } catch (error) {
        this.#crash(interceptor, error);
        return;
      }
      if (decision instanceof Promise) {
        this.#hold();
        const before: Uint8Array = request;
        decision
          .then((late) => {
            const next = this.#over ? undefined : this.#carryOut(late, before);
            if (next !== undefined) this.#decide(index + 1, next);
          })
          .catch((error) => this.#crash(interceptor, error));
        return;
      }
      request = this.#carryOut(decision, request);
      if (request === undefined) return;
    }
    this.#finish(undefined);
    this.#context.pass({
      request,
      rewriter: chained(this.#rewriters),
      heldSince: this.#held ? this.#arrivedAt : undefined,
    });
  }

  /** The request for the next in line; undefined when there is none. */
  #carryOut(decision: Decision, request: Uint8Array): Uint8Array | undefined {
    switch (decision.kind) {
      case 'pass':
        if (decision.rewriter !== undefined) this.#rewriters.push(decision.rewriter);
        return decision.request ?? request;
      case 'fail':
        this.#end(decision);
        return undefined;
      case 'answer':
        this.#hold();
        void answer(this.#exchange, decision.messages).then((end) => this.#end(end));
        return undefined;
    }
  }

  /** From here on the client may be gone, or out of patience, before there is an answer. */
  #hold(): void {
    if (this.#held) return;
    this.#held = true;
    const leftMs = this.deadline - performance.now();
    if (leftMs > LONGEST_TIMER_MS) return;
    this.#timer = setTimeout(
      () => this.#end({ code: status.DEADLINE_EXCEEDED, message: 'the deadline passed while gantry held the call' }),
      leftMs,
    );
  }

  #crash(interceptor: Interceptor, error: unknown): void {
    const end = answeredBy(error);
    if (end.code === status.INTERNAL) {
      const { method } = this;
      this.#context.log.error('internal-error', { interceptor: interceptor.name, method, reason: messageOf(error) });
    }
    this.#end(end);
  }

  #end(end: Answered): void {
    if (this.#over) return;
    this.#finish(end);
    this.#exchange.end(end);
  }

  #finish(end: Answered | undefined): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#context.whenOver(this);
    if (end === undefined) return;
    this.#exchange.abort();
    this.#context.observed.ended(end.code, end.message);
  }
}
