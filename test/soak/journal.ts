import { status } from '@grpc/grpc-js';
import { type Fault, nearestFault, overAt, type RelayName } from './faults.ts';
import { type CallRecord, judge, type Limits } from './judgement.ts';
import { PLAN } from './plan.ts';
import { type ConnectTally, type Excused, noConnects, Tallies } from './tallies.ts';

/** Something that must not be. */
export interface Offence {
  readonly at: number;
  readonly relay?: RelayName;
  /** What it happened to: a method, "connect()", "memory". */
  readonly what: string;
  readonly why: string;
  /** In the words of whoever said it, with the name of its code. */
  readonly message: string;
  readonly tookMs?: number;
  /** "1234 ms after relay-killed". */
  readonly nearest?: string;
}

// Whatever a fault breaks, and the news of the fault's end, has come after this long.
const SETTLE_MS = 3000;
// A fault is felt so long after it is over: what waited is sent all at once.
const ECHO_MS = 1000;

/** Everything that happened, and what is to be thought of it. */
export class Journal {
  readonly faults: Fault[] = [];
  readonly offences: Offence[] = [];
  readonly tallies = new Tallies();
  readonly excused = new Map<string, Excused>();
  readonly connects: Record<RelayName, ConnectTally> = { restarted: noConnects(), steady: noConnects() };
  calls = 0;
  hadToFail = 0;
  consequences = 0;
  readonly #limits: Limits;
  readonly #onOffence: (offence: Offence) => void;
  readonly #firstAnswers = new Map<Fault, Partial<Record<RelayName, number>>>();
  #unjudged: CallRecord[] = [];

  constructor(limits: Limits, onOffence: (offence: Offence) => void) {
    this.#limits = limits;
    this.#onOffence = onOffence;
  }

  record(call: CallRecord): void {
    this.calls += 1;
    const tally = this.tallies.of(call);
    tally.calls += 1;
    if (call.code !== status.OK) {
      this.#unjudged.push(call);
      return;
    }
    tally.ok += 1;
    const tookMs = call.endedAt - call.startedAt;
    tally.all.add(tookMs);
    this.#noteFirstAnswer(call);
    if (this.#isTouched(call)) return;
    tally.calm.add(tookMs);
    if (!call.isQuick || tookMs <= PLAN.slowMs) return;
    tally.offences += 1;
    this.#offend(call, 'the call hung for no reason', 'it was answered in the end');
  }

  /** A call that succeeded with what it must not say. */
  wrongAnswer(call: CallRecord, what: string): void {
    this.calls += 1;
    const tally = this.tallies.of(call);
    tally.calls += 1;
    tally.offences += 1;
    this.#offend(call, 'the answer is wrong', what);
  }

  connected(relay: RelayName, tookMs: number, error?: string): void {
    const tally = this.connects[relay];
    tally.attempts += 1;
    tally.slowestMs = Math.max(tally.slowestMs, tookMs);
    if (error === undefined) return;
    tally.failed += 1;
    const at = performance.now();
    this.offence({ at, relay, what: 'connect()', why: 'a connection was refused', message: error, tookMs });
  }

  offence(offence: Offence): void {
    const near = nearestFault(offence.at, this.faults);
    const nearest = near && describeDistance(near.fault, near.afterMs);
    const complete = { ...offence, ...(nearest !== undefined && { nearest }) };
    this.offences.push(complete);
    this.#onOffence(complete);
  }

  /** Judges the failed calls about which all is known by now; in the end, all of them. */
  judge(which: 'settled' | 'all'): void {
    const before = which === 'all' ? Number.POSITIVE_INFINITY : performance.now() - SETTLE_MS;
    const due = this.#unjudged.filter(({ endedAt }) => endedAt < before);
    this.#unjudged = this.#unjudged.filter(({ endedAt }) => endedAt >= before);
    for (const call of due) this.#judge(call);
  }

  /** When the first call ended that containerd answered through that relay after it had come back. */
  firstAnswer(fault: Fault, relay: RelayName): number | undefined {
    return this.#firstAnswers.get(fault)?.[relay];
  }

  #judge(call: CallRecord): void {
    const tally = this.tallies.of(call);
    const verdict = judge(call, this.faults, this.#limits);
    switch (verdict.kind) {
      case 'had-to-fail':
        tally.hadToFail += 1;
        this.hadToFail += 1;
        this.#excuse(verdict.why, call);
        break;
      case 'consequence':
        tally.consequences += 1;
        this.consequences += 1;
        this.#excuse('consequence of such a call', call);
        break;
      case 'offence':
        tally.offences += 1;
        this.#offend(call, verdict.why, messageOf(call));
    }
  }

  #offend({ relay, client, method, startedAt, endedAt }: CallRecord, why: string, message: string): void {
    this.offence({ at: endedAt, relay, what: `${method} (${client})`, why, message, tookMs: endedAt - startedAt });
  }

  #excuse(why: Excused['why'], call: CallRecord): void {
    // Without what is different in each.
    const message = messageOf(call)
      .replace(/[0-9a-f]{64}/g, 'ID')
      .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME');
    const key = `${why} ${message}`;
    const excused = this.excused.get(key) ?? { why, message, count: 0 };
    excused.count += 1;
    this.excused.set(key, excused);
  }

  #isTouched({ relay, startedAt, endedAt }: CallRecord): boolean {
    return this.faults.some((fault) => {
      if (fault.kind !== 'containerd-killed' && fault.relay !== relay) return false;
      return endedAt >= fault.at && startedAt <= (overAt(fault) ?? Number.POSITIVE_INFINITY) + ECHO_MS;
    });
  }

  #noteFirstAnswer({ relay, endedAt }: CallRecord): void {
    const fault = this.faults.findLast(({ kind }) => kind === 'containerd-killed');
    // Before it accepts again nobody can have an answer; what ends between was answered before it was killed.
    if (fault?.kind !== 'containerd-killed' || fault.accepting === undefined || endedAt < fault.accepting) return;
    const first = this.#firstAnswers.get(fault) ?? {};
    first[relay] ??= endedAt;
    this.#firstAnswers.set(fault, first);
  }
}

function messageOf({ code, details }: CallRecord): string {
  return `${status[code] ?? code}: ${details}`;
}

export function describeDistance(fault: Fault, afterMs: number): string {
  const what = fault.kind === 'containerd-killed' ? fault.kind : `${fault.kind} (${fault.relay})`;
  return `${Math.abs(Math.round(afterMs))} ms ${afterMs < 0 ? 'before' : 'after'} ${what}`;
}
