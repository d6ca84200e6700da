import { setTimeout as sleep } from 'node:timers/promises';
import type { RelayName } from './faults.ts';
import type { Gate } from './gate.ts';
import { judgeQuiet, type QuietMoment } from './growth.ts';
import type { Journal } from './journal.ts';
import type { Load } from './load/load.ts';
import { PLAN } from './plan.ts';
import type { RelayProcess } from './relay-process.ts';
import { openInRelay, sample } from './samples.ts';

const FAULTS_LIMIT_MS = 30_000;
const CALLS_LIMIT_MS = 20_000;

/** Stops all load for a moment, to see whether the relays hold anything then that they did not hold before. */
export class QuietMoments {
  readonly of: Record<RelayName, QuietMoment[]> = { restarted: [], steady: [] };
  /** Moments at which faults or calls did not end in time. */
  skipped = 0;
  readonly #relays: readonly RelayProcess[];
  readonly #loads: readonly Load[];
  readonly #faultGate: Gate;
  readonly #journal: Journal;

  constructor(relays: readonly RelayProcess[], loads: readonly Load[], faultGate: Gate, journal: Journal) {
    this.#relays = relays;
    this.#loads = loads;
    this.#faultGate = faultGate;
    this.#journal = journal;
  }

  async take(): Promise<void> {
    using noFaults = await this.#faultGate.close(FAULTS_LIMIT_MS);
    if (!noFaults.isEmpty) {
      this.skipped += 1;
      return;
    }
    const closing = await Promise.all(this.#loads.map(({ target }) => target.gate.close(CALLS_LIMIT_MS)));
    using stack = new DisposableStack();
    for (const each of closing) stack.use(each);
    if (closing.some(({ isEmpty }) => !isEmpty)) {
      this.skipped += 1;
      return;
    }
    await sleep(PLAN.quietSettleMs);
    for (const relay of this.#relays) await this.#look(relay);
  }

  async #look(relay: RelayProcess): Promise<void> {
    const { pid } = relay.current ?? {};
    const load = this.#loads.find(({ target }) => target.relay === relay.name);
    if (pid === undefined || !relay.isServing || load?.events.isOpen !== true) return;
    const held = await sample(relay.name, pid);
    if (held === undefined) return;
    const moment = { at: held.at, pid, descriptors: held.descriptors, ...(await openInRelay(relay.metricsSocket)) };
    const moments = this.of[relay.name];
    moments.push(moment);
    const difference = judgeQuiet(moment, moments[0] ?? moment);
    if (difference === undefined) return;
    this.#journal.offence({
      at: moment.at,
      relay: relay.name,
      what: 'quiet moment',
      why: 'the relay holds something that nobody uses',
      message: difference,
    });
  }
}
