import type { RelayName } from './faults.ts';
import type { CallRecord, Excuse } from './judgement.ts';
import { Latencies } from './latencies.ts';

/** Calls of one method through one relay. */
export interface MethodTally {
  readonly relay: RelayName;
  readonly method: string;
  calls: number;
  ok: number;
  hadToFail: number;
  consequences: number;
  offences: number;
  /** Of the calls that succeeded, and of those among them that no fault touched. */
  readonly all: Latencies;
  readonly calm: Latencies;
}

/** Failed calls that said the same, and why they had to. */
export interface Excused {
  readonly why: Excuse | 'consequence of such a call';
  readonly message: string;
  count: number;
}

export interface ConnectTally {
  attempts: number;
  failed: number;
  slowestMs: number;
}

/** The tally of each method and relay. */
export class Tallies {
  readonly #tallies = new Map<string, MethodTally>();

  get all(): MethodTally[] {
    return [...this.#tallies.values()].sort(
      (a, b) => a.relay.localeCompare(b.relay) || a.method.localeCompare(b.method),
    );
  }

  of({ relay, method }: Pick<CallRecord, 'relay' | 'method'>): MethodTally {
    const key = `${relay} ${method}`;
    let tally = this.#tallies.get(key);
    if (tally === undefined) {
      const counts = { calls: 0, ok: 0, hadToFail: 0, consequences: 0, offences: 0 };
      tally = { relay, method, ...counts, all: new Latencies(), calm: new Latencies() };
      this.#tallies.set(key, tally);
    }
    return tally;
  }
}

export function noConnects(): ConnectTally {
  return { attempts: 0, failed: 0, slowestMs: 0 };
}
