import type { Pod } from '../pods.ts';
import type { RelayName } from './faults.ts';
import type { Gate } from './gate.ts';
import type { Journal } from './journal.ts';

/** What a load needs to know. */
export interface Target {
  readonly relay: RelayName;
  readonly socket: string;
  readonly journal: Journal;
  /** Everything passes it; closed at quiet moments. */
  readonly gate: Gate;
  /** Calls that may be open longer than a drain takes; closed while a relay is stopped without any. */
  readonly longCalls: Gate;
  /** Pods that run from the beginning to the end. */
  readonly pods: readonly Pod[];
  readonly images: { readonly busybox: string };
  /** Aborts when there is to be no more load. Calls in flight are not cut. */
  readonly signal: AbortSignal;
}
