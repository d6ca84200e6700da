import { GantryError } from '../errors.ts';
import { RelayService, type TracedCall, TraceEvent, TraceRequest } from '../gen/gantry/v1/relay.ts';
import type { OwnMethod } from './own.ts';
import type { CallRecord, CallSink } from './recorder.ts';
import { decodeMessage } from './status.ts';

const MAX_FOLLOWERS = 16;
// A follower on a terminal reads thousands of calls a second; this is what may come while it is busy.
const BUFFERED_CALLS = 1000;

/** Calls as they end, for whoever follows (gantry.v1.Relay/Trace). Without a follower it costs one comparison a call. */
export class Trace implements CallSink {
  readonly #followers = new Set<Follower>();
  readonly #bufferedCalls: number;

  constructor(bufferedCalls = BUFFERED_CALLS) {
    this.#bufferedCalls = bufferedCalls;
  }

  get wantsBytes(): boolean {
    return this.#followers.size > 0;
  }

  callEnded(call: CallRecord): void {
    if (this.#followers.size === 0) return;
    for (const follower of this.#followers) follower.offer(call);
  }

  methods(): [path: string, method: OwnMethod][] {
    return [[RelayService.trace.path, (request, signal) => this.#follow(TraceRequest.decode(request), signal)]];
  }

  async *#follow({ methods }: TraceRequest, signal: AbortSignal): AsyncIterable<Uint8Array> {
    if (this.#followers.size >= MAX_FOLLOWERS) {
      throw new GantryError('BUSY', `${MAX_FOLLOWERS} callers follow already`, { hint: 'end one of them' });
    }
    const follower = new Follower(methods, this.#bufferedCalls, performance.now());
    const wake = () => follower.wake();
    signal.addEventListener('abort', wake);
    this.#followers.add(follower);
    try {
      while (!signal.aborted) {
        for (const event of follower.take()) yield TraceEvent.encode(event).finish();
        if (!signal.aborted) await follower.more();
      }
    } finally {
      this.#followers.delete(follower);
      signal.removeEventListener('abort', wake);
    }
  }
}

class Follower {
  readonly #wanted: RegExp | undefined;
  readonly #most: number;
  readonly #since: number;
  #calls: TracedCall[] = [];
  #dropped = 0;
  #resolve: (() => void) | undefined;

  constructor(methods: readonly string[], most: number, since: number) {
    this.#wanted = methods.length === 0 ? undefined : anyOf(methods);
    this.#most = most;
    this.#since = since;
  }

  offer(call: CallRecord): void {
    // Those that began before have not had their bytes counted.
    if (call.startedAt < this.#since || this.#wanted?.test(call.method.label) === false) return;
    if (this.#calls.length >= this.#most) this.#dropped += 1;
    else this.#calls.push(traced(call));
    this.wake();
  }

  /** What has gathered; what was dropped came after it. */
  *take(): Iterable<TraceEvent> {
    while (this.#calls.length > 0 || this.#dropped > 0) {
      const calls = this.#calls;
      const dropped = this.#dropped;
      this.#calls = [];
      this.#dropped = 0;
      for (const call of calls) yield { call };
      if (dropped > 0) yield { dropped: BigInt(dropped) };
    }
  }

  /** Resolves when there is something to take, or `wake` was called. */
  async more(): Promise<void> {
    if (this.#calls.length > 0 || this.#dropped > 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#resolve = resolve;
    await promise;
  }

  wake(): void {
    this.#resolve?.();
    this.#resolve = undefined;
  }
}

function traced(call: CallRecord): TracedCall {
  return {
    startUnixMs: performance.timeOrigin + call.startedAt,
    method: call.method.label,
    mode: call.mode,
    code: call.code,
    message: decodeMessage(call.message),
    durationMs: call.ownMs + call.upstreamMs,
    ownMs: call.ownMs,
    upstreamMs: call.upstreamMs,
    bytesUp: BigInt(call.bytesUp),
    bytesDown: BigInt(call.bytesDown),
    namespace: call.subject?.namespace ?? '',
    pod: call.subject?.pod ?? '',
    container: call.subject?.container ?? '',
    sandboxId: call.subject?.sandboxId ?? '',
    containerId: call.subject?.containerId ?? '',
  };
}

/** One pattern for several, in which "*" stands for any text. */
function anyOf(patterns: readonly string[]): RegExp {
  const one = (pattern: string) => pattern.split('*').map(RegExp.escape).join('.*');
  return new RegExp(`^(?:${patterns.map(one).join('|')})$`, 'i');
}
