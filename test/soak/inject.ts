import { setTimeout as sleep } from 'node:timers/promises';
import type { Containerd } from './containerd.ts';
import { RELAYS, type RelayFault, type RelayName, type RuntimeFault } from './faults.ts';
import type { Gate } from './gate.ts';
import type { Journal } from './journal.ts';
import type { Load } from './load/load.ts';
import { pause } from './load/pace.ts';
import type { LoopLag } from './loop-lag.ts';
import { PLAN, RELAY } from './plan.ts';
import type { Incarnation, RelayProcess } from './relay-process.ts';

export interface InjectorOptions {
  readonly journal: Journal;
  readonly relay: RelayProcess;
  readonly containerd: Containerd;
  readonly loads: readonly Load[];
  /** Faults pass it, so that none begins at a quiet moment. */
  readonly gate: Gate;
  readonly lag: LoopLag;
  readonly beganAt: number;
  readonly endsAt: number;
  readonly signal: AbortSignal;
}

// A fault needs so much time until all is well again, so none begins later than this before the end.
const LAST_FAULT_MS = 8000;
// Beyond its drain timeout a stopped relay takes this long to end, on a busy machine.
const END_MS = 1500;

/** Kills relay and runtime, each in its own rhythm. */
export class Injector {
  readonly #options: InjectorOptions;

  constructor(options: InjectorOptions) {
    this.#options = options;
  }

  /** Resolves when the last fault is over. Throws when what was killed does not come back. */
  async run(): Promise<void> {
    await Promise.all([this.#relayFaults(), this.#runtimeFaults()]);
  }

  async #relayFaults(): Promise<void> {
    let count = 0;
    let stops = 0;
    await this.#every(PLAN.relayFaultEveryMs, 0, PLAN.relayJitterMs, async () => {
      count += 1;
      if (count % PLAN.gracefulEvery !== 0) {
        await this.#endRelay('SIGKILL');
        return;
      }
      stops += 1;
      // With calls that outlast the drain, and next time with short ones alone, of which none may be lost.
      if (stops % 2 === 1) {
        await this.#endRelay('SIGTERM');
        return;
      }
      using _short = await this.#load()?.withoutLongCalls();
      await this.#endRelay('SIGTERM');
    });
  }

  async #runtimeFaults(): Promise<void> {
    const { journal, containerd, loads, lag } = this.#options;
    await this.#every(PLAN.runtimeFaultEveryMs, -PLAN.runtimeFaultEveryMs / 2, PLAN.runtimeJitterMs, async () => {
      let fault: RuntimeFault | undefined;
      const over = new AbortController();
      lag.restart();
      const pressing = Promise.all(loads.map((load) => load.press(over.signal)));
      try {
        await containerd.kill((killed) => {
          fault = killed;
          journal.faults.push(killed);
        });
        await sleep(PLAN.pressureAfterMs);
      } finally {
        over.abort();
      }
      await pressing;
      if (fault === undefined) return;
      fault.clockLateMs = lag.recentMs;
      this.#judgeReturn(fault);
    });
  }

  /** Calls that waited at a relay are answered as soon as one that is made directly is, give or take. */
  #judgeReturn(fault: RuntimeFault): void {
    const { journal } = this.#options;
    const allowedMs = PLAN.returnLagMs + (fault.clockLateMs ?? 0);
    for (const relay of RELAYS) {
      const lag = returnLag(journal, fault, relay);
      if (lag === undefined || lag <= allowedMs) continue;
      journal.offence({
        at: performance.now(),
        relay,
        what: 'return of containerd',
        why: 'what waited was answered late',
        message: `${Math.round(lag)} ms after containerd answered directly; ${Math.round(allowedMs)} ms are allowed`,
      });
    }
  }

  async #endRelay(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const { journal, relay } = this.#options;
    await this.#serving();
    const pressed = new AbortController();
    const pressing = this.#load()?.press(pressed.signal);
    await sleep(PLAN.pressureBeforeMs);
    const { pid } = relay.current ?? {};
    if (pid === undefined) throw new Error(`there is no ${relay.name} relay to end`);
    const kind = signal === 'SIGKILL' ? 'relay-killed' : 'relay-stopped';
    const fault: RelayFault = { kind, relay: relay.name, at: performance.now() };
    journal.faults.push(fault);
    process.kill(pid, signal);
    await sleep(PLAN.pressureAfterMs);
    pressed.abort();
    await this.#serving(pid);
    fault.back = relay.current?.servingAt ?? performance.now();
    await pressing;
  }

  /** Waits until a relay serves, and not the one with that PID. */
  async #serving(otherThan?: number): Promise<void> {
    const { relay } = this.#options;
    const limit = performance.now() + PLAN.relayReturnLimitMs;
    while (!relay.isServing || relay.current?.pid === otherThan) {
      if (performance.now() > limit) throw new Error(`the ${relay.name} relay did not come back`);
      await sleep(10);
    }
  }

  #load(): Load | undefined {
    const { loads, relay } = this.#options;
    return loads.find(({ target }) => target.relay === relay.name);
  }

  async #every(everyMs: number, offsetMs: number, jitterMs: number, inject: () => Promise<void>): Promise<void> {
    const { beganAt, endsAt, signal, gate } = this.#options;
    for (let turn = 1; !signal.aborted; turn += 1) {
      const at = beganAt + turn * everyMs + offsetMs + (Math.random() * 2 - 1) * jitterMs;
      if (at > endsAt - LAST_FAULT_MS) return;
      await pause(at - performance.now(), signal);
      await gate.through(async () => {
        if (!signal.aborted) await inject();
      });
    }
  }
}

/**
 * How long after containerd answered directly the first call was answered through a relay; negative when it was first.
 * Undefined when that relay was itself away meanwhile.
 */
export function returnLag(journal: Journal, fault: RuntimeFault, relay: RelayName): number | undefined {
  const { answering } = fault;
  if (answering === undefined) return undefined;
  const wasAway = journal.faults.some(
    (each) =>
      each.kind !== 'containerd-killed' &&
      each.relay === relay &&
      each.at <= answering + PLAN.returnLagMs &&
      (each.back ?? Number.POSITIVE_INFINITY) >= fault.at,
  );
  if (wasAway) return undefined;
  return (journal.firstAnswer(fault, relay) ?? performance.now()) - answering;
}

/** Takes note of the end of a relay, which is what a fault was for, or is none of ours. */
export function noteEnd(journal: Journal, name: RelayName, ended: Incarnation): void {
  const at = performance.now();
  const offend = (why: string, message: string) => journal.offence({ at, relay: name, what: 'process', why, message });
  const fault = journal.faults.find(
    (each): each is RelayFault => each.kind !== 'containerd-killed' && each.relay === name && each.gone === undefined,
  );
  if (fault === undefined) {
    offend('the relay ended by itself', `PID ${ended.pid}, exit status ${ended.exitStatus}`);
    return;
  }
  fault.gone = at;
  if (fault.kind !== 'relay-stopped') return;
  if (ended.exitStatus !== 0) offend('a stopped relay failed', `exit status ${ended.exitStatus}`);
  const tookMs = at - fault.at;
  if (tookMs > RELAY.drainTimeoutMs + END_MS) {
    offend('a stopped relay did not end in time', `it took ${Math.round(tookMs)} ms`);
  }
}
