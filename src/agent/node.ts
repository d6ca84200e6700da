import type { Log } from '../log.ts';
import type { Journal } from '../migrate/journal.ts';
import type { Migrations } from '../migrate/migrations.ts';
import type { Identities } from '../network/identity/identities.ts';
import type { MovedAddresses } from '../network/moved.ts';
import type { Cri } from '../runtime/cri.ts';
import type { Slots } from '../surgery/slots.ts';
import type { AgentConfig } from './config.ts';

/** What every verb of the agent works with. */
export interface Node {
  readonly config: AgentConfig;
  readonly cri: Cri;
  readonly slots: Slots;
  readonly journal: Journal;
  readonly migrations: Migrations;
  /** Moved pods, as the network sees them. */
  readonly identities: Identities;
  /** The same, as clients of the CRI see them. */
  readonly moved: MovedAddresses;
  readonly log: Log;
  /** IDs of containers, of sandboxes and of migrations that an operation works on: one operation each. */
  readonly busy: Set<string>;
  /** Sandboxes whose slots are being reconciled, which nobody has asked for: who wants to work on one waits until it is done. */
  readonly reconciling: Map<string, Promise<void>>;
}
