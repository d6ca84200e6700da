import { status } from '../grpc-status.ts';
import { type MethodName, MethodNames } from './method-names.ts';
import type { Mode, ObservedCall, RelayObserver } from './observe.ts';
import { Beginnings } from './peek.ts';
import { type Ask, type Subject, Subjects } from './subjects.ts';

const REMOVES: ReadonlySet<string> = new Set(['RemoveContainer', 'RemovePodSandbox']);

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
  /** What it was about, when somebody wanted to know. */
  readonly subject: Subject | undefined;
}

/** Somebody who wants to know of calls. Called for every one, so a sink must be quick and must not keep the record. */
export interface CallSink {
  callStarted?(): void;
  callEnded(call: CallRecord): void;
  connections?(change: 1 | -1): void;
  upstreamConnected?(): void;
  /** Whether the bytes of calls that begin now are wanted, and what each is about. */
  readonly wantsBytes?: boolean;
}

/** Times each call and hands it to the sinks. On the way of every call: one small object, four looks at the clock. */
export class Recorder implements RelayObserver {
  readonly #sinks: readonly CallSink[];
  readonly #names = new MethodNames();
  readonly #subjects = new Subjects();

  constructor(sinks: readonly CallSink[]) {
    this.#sinks = sinks;
  }

  callStarted(path: string, mode: Mode): ObservedCall {
    let countsBytes = false;
    for (const sink of this.#sinks) {
      sink.callStarted?.();
      if (sink.wantsBytes === true) countsBytes = true;
    }
    return new RecordedCall(this.#sinks, this.#subjects, this.#names.of(path), mode, countsBytes);
  }

  connectionOpened(): void {
    for (const sink of this.#sinks) sink.connections?.(1);
  }

  connectionClosed(): void {
    for (const sink of this.#sinks) sink.connections?.(-1);
  }

  upstreamConnected(ask: Ask): void {
    for (const sink of this.#sinks) sink.upstreamConnected?.();
    void this.#subjects.learn(ask);
  }
}

class RecordedCall implements ObservedCall, CallRecord {
  readonly #sinks: readonly CallSink[];
  readonly #subjects: Subjects;
  readonly method: MethodName;
  readonly mode: Mode;
  readonly countsBytes: boolean;
  readonly peek: Beginnings | undefined;
  subject: Subject | undefined;
  bytesUp = 0;
  bytesDown = 0;
  readonly startedAt = performance.now();
  endedAt = 0;
  code = -1;
  message = '';
  #forwardedAt = 0;
  #answeredAt = 0;

  constructor(sinks: readonly CallSink[], subjects: Subjects, method: MethodName, mode: Mode, countsBytes: boolean) {
    this.#sinks = sinks;
    this.#subjects = subjects;
    this.method = method;
    this.mode = mode;
    this.countsBytes = countsBytes;
    // What reads comes many times a second, and is about something only to those who watch.
    const wanted = method.subject !== undefined && (countsBytes || method.kind !== 'read');
    this.peek = wanted ? new Beginnings() : undefined;
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
    this.#findSubject();
    for (const sink of this.#sinks) sink.callEnded(this);
  }

  #findSubject(): void {
    const { peek, method } = this;
    if (peek === undefined || method.subject === undefined) return;
    const done = this.code === status.OK;
    this.subject = this.#subjects.of(method.subject, peek.requestMessage, done ? peek.answerMessage : undefined);
    if (done && REMOVES.has(method.label)) this.#subjects.forget(this.subject);
  }
}
