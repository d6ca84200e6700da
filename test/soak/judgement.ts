import { status } from '@grpc/grpc-js';
import { METHODS } from '../../src/proxy/methods.ts';
import type { Fault, RelayFault, RelayName, RuntimeFault } from './faults.ts';

/** One call as its client saw it. */
export interface CallRecord {
  readonly relay: RelayName;
  /** Who called: "kubelet", "crictl" and so on. */
  readonly client: string;
  readonly method: string;
  readonly startedAt: number;
  readonly endedAt: number;
  readonly code: number;
  readonly details: string;
  /** Whether a connection was made for this call alone. */
  readonly ownConnection: boolean;
  /** Whether the runtime has nothing to do for it but look. */
  readonly isQuick: boolean;
  /** The call whose failure this one may be a consequence of: an earlier one on the same pod. */
  readonly after?: CallRecord;
}

export interface Limits {
  readonly drainTimeoutMs: number;
  readonly upstreamWaitMs: number;
}

export type Verdict =
  | { readonly kind: 'had-to-fail'; readonly fault: Fault; readonly why: Excuse }
  /** Its pod is not in the state it would be in had an earlier call not had to fail. */
  | { readonly kind: 'consequence'; readonly of: CallRecord }
  | { readonly kind: 'offence'; readonly why: string };

export type Excuse =
  | 'in flight on the relay when it was killed'
  | 'longer than the drain timeout of the relay'
  | 'an event stream, which a relay that stops ends at once'
  | 'in flight at containerd when it was killed'
  | 'containerd was away longer than the relay waits';

// Relay and client take this long to notice that a connection is gone; what is sent meanwhile is lost with it.
const NOTICE_MS = 100;
// Whoever waits is told of the loss at once, as far as two busy cores allow.
const TOLD_MS = 500;
// A killed process may be in the middle of accepting. What connects later finds the queue, and the next relay.
const ACCEPT_MS = 5;
// A stopped relay's GOAWAY takes this long to arrive; whoever calls later calls the next relay.
const GOAWAY_MS = 200;
// Timers of the relay and of the soak are not the same clock.
const TIMER_MS = 50;

// What grpc-js says when the connection of a call, or the one it was just making for it, is gone. Not a refused one.
const CONNECTION_LOST =
  /^(Connection dropped|(read|write) (ECONNRESET|EPIPE)|No connection established\. Last error: .*(Connection dropped|ECONNRESET|EPIPE|Failed to connect|socket hang up))/;
const RELAY_STOPPING = /^gantry proxy is stopping/;
const LOST_IN_FLIGHT = /^containerd at \S+ closed the connection while the call was in flight/;
const NOT_THERE = /^containerd at \S+ is not there; gantry waited \d+ ms for it/;

/** What containerd says of a pod that is in no state, or gone. All else is never a consequence. */
const CONSEQUENCES: readonly number[] = [
  status.NOT_FOUND,
  status.FAILED_PRECONDITION,
  status.ALREADY_EXISTS,
  status.UNKNOWN,
];

/** Whether a call that failed had to. `faults` must be complete up to its end. */
export function judge(call: CallRecord, faults: readonly Fault[], limits: Limits): Verdict {
  for (const fault of faults) {
    const why = excuseOf(call, fault, limits);
    if (why !== undefined) return { kind: 'had-to-fail', fault, why };
  }
  if (call.after !== undefined && CONSEQUENCES.includes(call.code)) {
    if (judge(call.after, faults, limits).kind !== 'offence') return { kind: 'consequence', of: call.after };
  }
  const hung = call.code === status.DEADLINE_EXCEEDED;
  return { kind: 'offence', why: hung ? 'the call hung until its deadline' : 'the call failed without need' };
}

function excuseOf(call: CallRecord, fault: Fault, limits: Limits): Excuse | undefined {
  if (call.code !== status.UNAVAILABLE) return undefined;
  if (fault.kind === 'containerd-killed') return excuseOfRuntime(call, fault, limits);
  return fault.relay === call.relay ? excuseOfRelay(call, fault, limits) : undefined;
}

function excuseOfRelay(call: CallRecord, fault: RelayFault, { drainTimeoutMs }: Limits): Excuse | undefined {
  if (fault.kind === 'relay-stopped') {
    if (!RELAY_STOPPING.test(call.details) || call.startedAt > fault.at + GOAWAY_MS) return undefined;
    if (METHODS[call.method]?.kind === 'watch') {
      return call.endedAt >= fault.at ? 'an event stream, which a relay that stops ends at once' : undefined;
    }
    const isCut = call.endedAt >= fault.at + drainTimeoutMs - TIMER_MS;
    return isCut ? 'longer than the drain timeout of the relay' : undefined;
  }
  const gone = fault.gone ?? Number.POSITIVE_INFINITY;
  const latestStart = call.ownConnection ? fault.at + ACCEPT_MS : gone + NOTICE_MS;
  const isLost =
    CONNECTION_LOST.test(call.details) &&
    call.startedAt <= latestStart &&
    call.endedAt >= fault.at &&
    call.endedAt <= gone + TOLD_MS;
  return isLost ? 'in flight on the relay when it was killed' : undefined;
}

function excuseOfRuntime(call: CallRecord, fault: RuntimeFault, { upstreamWaitMs }: Limits): Excuse | undefined {
  const gone = fault.gone ?? Number.POSITIVE_INFINITY;
  if (LOST_IN_FLIGHT.test(call.details)) {
    const isLost = call.startedAt <= gone + NOTICE_MS && call.endedAt >= fault.at && call.endedAt <= gone + TOLD_MS;
    return isLost ? 'in flight at containerd when it was killed' : undefined;
  }
  if (NOT_THERE.test(call.details)) {
    const accepting = fault.accepting ?? Number.POSITIVE_INFINITY;
    const wasAway = call.endedAt >= gone + upstreamWaitMs && call.endedAt <= accepting + TIMER_MS;
    return wasAway ? 'containerd was away longer than the relay waits' : undefined;
  }
  return undefined;
}
