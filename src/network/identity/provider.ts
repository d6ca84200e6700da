import type { Address } from '../address.ts';

/** A pod that has come to this node or has left it, with what a provider may need of it (docs/identity.md). */
export interface MovedPod {
  /** ID of the migration. */
  readonly operation: string;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  /** ID, on this node. */
  readonly sandbox: string;
  /** Path of the pod's network namespace on this node; "" once it may be gone. */
  readonly netns: string;
  readonly addresses: readonly Address[];
  /** The node that it came from, or went to. */
  readonly peer: string;
  /** The node that sends here what is for the pod, because it came from there; "" where it was started. */
  readonly from: string;
}

/**
 * What makes a moved pod's addresses reachable where it is. Each verb is idempotent; one that fails is repeated later, and
 * never undoes a migration.
 */
export interface Provider {
  /** On the target, once the pod's network is open. */
  takeOver(pod: MovedPod): Promise<void>;
  /** On the source, once its copy has ended; the sandbox may still be there. */
  leave(pod: MovedPod): Promise<void>;
  /** On every node that has done one of the two, once the pod is gone for good. */
  withdraw(pod: MovedPod): Promise<void>;
  /** What it does has to be undone one day: each pod is kept on disk until then. */
  readonly lasts: boolean;
}
