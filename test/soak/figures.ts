import { type Fault, overAt, RELAYS, type RelayFault, type RelayName, type RuntimeFault } from './faults.ts';
import { judgeMemory, type MemoryFigures, type QuietMoment } from './growth.ts';
import { returnLag } from './inject.ts';
import type { Journal, Offence } from './journal.ts';
import type { Load } from './load/load.ts';
import type { QuietMoments } from './quiet.ts';
import type { Incarnation } from './relay-process.ts';
import type { Sample } from './samples.ts';
import type { ConnectTally, Excused, MethodTally } from './tallies.ts';

/** What a soak came to; `--json` writes it. Times are in milliseconds, moments since the load began. */
export interface Figures {
  readonly lengthMs: number;
  readonly interrupted: boolean;
  readonly calls: readonly MethodFigures[];
  /** Failures that had to be. */
  readonly excused: readonly Excused[];
  readonly offences: readonly Offence[];
  readonly connects: Record<RelayName, ConnectTally>;
  readonly reconnects: Record<RelayName, number>;
  readonly podCycles: Record<RelayName, number>;
  readonly relayEnds: readonly RelayEnd[];
  readonly containerdReturns: readonly RuntimeReturn[];
  readonly memory: MemoryFigures | undefined;
  readonly descriptors: { readonly first: number; readonly last: number; readonly max: number };
  readonly quiet: Record<RelayName, readonly QuietMoment[]>;
  readonly quietSkipped: number;
  /** Of the restarted relay's processes: the most that any of them held. */
  readonly restarted: { readonly processes: number; readonly maxBytes: number; readonly maxDescriptors: number };
  /** How late the soak's own event loop was at most: clocks are no better than that. */
  readonly loopLagMs: number;
}

export interface MethodFigures {
  readonly relay: RelayName;
  readonly method: string;
  readonly calls: number;
  readonly ok: number;
  readonly hadToFail: number;
  readonly consequences: number;
  readonly offences: number;
  /** Of calls that no fault touched, if there are any. */
  readonly p50Ms: number | undefined;
  readonly p99Ms: number | undefined;
  /** Of all that succeeded. */
  readonly maxMs: number | undefined;
}

export interface RelayEnd {
  readonly kind: RelayFault['kind'];
  readonly at: number;
  /** From the signal to the end, and from the signal until the next one served. */
  readonly goneMs: number | undefined;
  readonly backMs: number | undefined;
}

export interface RuntimeReturn {
  readonly at: number;
  /** From the kill until it took connections and until it answered a direct call. */
  readonly acceptingMs: number | undefined;
  readonly answeringMs: number | undefined;
  /** From the direct answer to the first one through each relay; none when that relay was away itself. */
  readonly lagMs: Partial<Record<RelayName, number>>;
  /** How late the soak's own event loop was meanwhile; so much more is allowed. */
  readonly clockLateMs: number | undefined;
}

export interface Gathered {
  readonly journal: Journal;
  readonly loads: readonly Load[];
  readonly quiet: QuietMoments;
  readonly samples: readonly Sample[];
  readonly incarnations: readonly Incarnation[];
  readonly beganAt: number;
  readonly endedAt: number;
  readonly interrupted: boolean;
  readonly loopLagMs: number;
}

export function figuresOf(gathered: Gathered): Figures {
  const { journal, loads, quiet, samples, incarnations, beganAt, endedAt, interrupted, loopLagMs } = gathered;
  const steady = samples.filter(({ relay }) => relay === 'steady');
  const restarted = samples.filter(({ relay }) => relay === 'restarted');
  const most = (all: readonly Sample[], key: 'residentBytes' | 'descriptors') =>
    all.reduce((max, each) => Math.max(max, each[key]), 0);
  const perLoad = (value: (load: Load) => number) =>
    Object.fromEntries(loads.map((load) => [load.target.relay, value(load)])) as Record<RelayName, number>;
  return {
    lengthMs: endedAt - beganAt,
    interrupted,
    calls: journal.tallies.all.map(methodFigures),
    excused: [...journal.excused.values()].sort((a, b) => b.count - a.count),
    offences: journal.offences.map((offence) => ({ ...offence, at: offence.at - beganAt })),
    connects: journal.connects,
    reconnects: perLoad(({ reconnects }) => reconnects.count),
    podCycles: perLoad(({ cycle }) => cycle.complete),
    relayEnds: journal.faults.filter(isRelayFault).map((fault) => ({
      kind: fault.kind,
      at: fault.at - beganAt,
      goneMs: elapsed(fault, fault.gone),
      backMs: elapsed(fault, overAt(fault)),
    })),
    containerdReturns: journal.faults.filter(isRuntimeFault).map((fault) => ({
      at: fault.at - beganAt,
      acceptingMs: elapsed(fault, fault.accepting),
      answeringMs: elapsed(fault, fault.answering),
      lagMs: lagsOf(journal, fault),
      clockLateMs: fault.clockLateMs,
    })),
    memory: judgeMemory(steady),
    descriptors: {
      first: steady[0]?.descriptors ?? 0,
      last: steady.at(-1)?.descriptors ?? 0,
      max: most(steady, 'descriptors'),
    },
    quiet: {
      restarted: quiet.of.restarted.map((moment) => ({ ...moment, at: moment.at - beganAt })),
      steady: quiet.of.steady.map((moment) => ({ ...moment, at: moment.at - beganAt })),
    },
    quietSkipped: quiet.skipped,
    restarted: {
      processes: incarnations.length,
      maxBytes: most(restarted, 'residentBytes'),
      maxDescriptors: most(restarted, 'descriptors'),
    },
    loopLagMs,
  };
}

function methodFigures({ relay, method, calls, ok, hadToFail, consequences, offences, all, calm }: MethodTally) {
  const quantiles = { p50Ms: calm.quantile(0.5), p99Ms: calm.quantile(0.99), maxMs: all.quantile(1) };
  return { relay, method, calls, ok, hadToFail, consequences, offences, ...quantiles };
}

function lagsOf(journal: Journal, fault: RuntimeFault): RuntimeReturn['lagMs'] {
  const lags: Partial<Record<RelayName, number>> = {};
  for (const relay of RELAYS) {
    const lag = returnLag(journal, fault, relay);
    if (lag !== undefined) lags[relay] = lag;
  }
  return lags;
}

function isRelayFault(fault: Fault): fault is RelayFault {
  return fault.kind !== 'containerd-killed';
}

function isRuntimeFault(fault: Fault): fault is RuntimeFault {
  return fault.kind === 'containerd-killed';
}

function elapsed(fault: Fault, moment: number | undefined): number | undefined {
  return moment === undefined ? undefined : moment - fault.at;
}
