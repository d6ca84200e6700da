import { type MethodName, MethodNames } from './method-names.ts';
import type { Mode, ObservedCall, RelayObserver } from './observe.ts';

/** Times are of `performance.now()`, in milliseconds. */
export interface CallRecord {
  readonly method: MethodName;
  readonly mode: Mode;
  readonly startedAt: number;
  readonly endedAt: number;
  /** What the relay itself took: the call's time less what was the runtime's. */
  readonly ownMs: number;
  /** From passing the call on to the end of the answer, waiting for an absent runtime included. */
  readonly upstreamMs: number;
  /** gRPC status. */
  readonly code: number;
  /** Of the status, as it was sent. */
  readonly message: string;
  readonly countsBytes: boolean;
  readonly bytesUp: number;
  readonly bytesDown: number;
}

/** Somebody who wants to know of calls. Called for every one, so a sink must be quick and must not keep the record. */
export interface CallSink {
  callStarted?(): void;
  callEnded(call: CallRecord): void;
  connections?(change: 1 | -1): void;
  upstreamConnected?(): void;
  /** Whether the bytes of calls that begin now are wanted. */
  readonly wantsBytes?: boolean;
}

/** Times each call and hands it to the sinks. On the way of every call: one small object, four looks at the clock. */
export class Recorder implements RelayObserver {
  readonly #sinks: readonly CallSink[];
  readonly #names = new MethodNames();

  constructor(sinks: readonly CallSink[]) {
    this.#sinks = sinks;
  }

  callStarted(path: string, mode: Mode): ObservedCall {
    let countsBytes = false;
    for (const sink of this.#sinks) {
      sink.callStarted?.();
      if (sink.wantsBytes === true) countsBytes = true;
    }
    return new RecordedCall(this.#sinks, this.#names.of(path), mode, countsBytes);
  }

  connectionOpened(): void {
    for (const sink of this.#sinks) sink.connections?.(1);
  }

  connectionClosed(): void {
    for (const sink of this.#sinks) sink.connections?.(-1);
  }

  upstreamConnected(): void {
    for (const sink of this.#sinks) sink.upstreamConnected?.();
  }
}

class RecordedCall implements ObservedCall, CallRecord {
  readonly #sinks: readonly CallSink[];
  readonly method: MethodName;
  readonly mode: Mode;
  readonly countsBytes: boolean;
  bytesUp = 0;
  bytesDown = 0;
  readonly startedAt = performance.now();
  endedAt = 0;
  code = -1;
  message = '';
  #forwardedAt = 0;
  #answeredAt = 0;

  constructor(sinks: readonly CallSink[], method: MethodName, mode: Mode, countsBytes: boolean) {
    this.#sinks = sinks;
    this.method = method;
    this.mode = mode;
    this.countsBytes = countsBytes;
  }

  get upstreamMs(): number {
    if (this.#forwardedAt === 0) return 0;
    return (this.#answeredAt === 0 ? this.endedAt : this.#answeredAt) - this.#forwardedAt;
  }

  get ownMs(): number {
    return this.endedAt - this.startedAt - this.upstreamMs;
  }

  forwarding(): void {
    this.#forwardedAt = performance.now();
  }

  answered(): void {
    if (this.#answeredAt === 0) this.#answeredAt = performance.now();
  }

  ended(code: number, message = ''): void {
    if (this.endedAt !== 0) return;
    this.endedAt = performance.now();
    this.code = code;
    this.message = message;
    for (const sink of this.#sinks) sink.callEnded(this);
  }
}
