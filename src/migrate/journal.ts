import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { makePrivateFolder, removeDurably, writeDurably } from '../durable.ts';
import { GantryError } from '../errors.ts';
import type { Address } from '../network/address.ts';
import { mayFollow, type SourceState, type TargetState } from './protocol.ts';

const VERSION = 1;

/**
 * What each side must know after a crash, one durable file per migration and side.
 *
 *   source, target: docs/handover.md; of a checkpoint:
 *            frozen ──▶ committed ──▶ (removed)        committed: the container is ended
 *               └─────▶ paused ─────▶ (removed)        paused: stays frozen until somebody lets it go on
 *
 *   restore: creating ──▶ (removed)                    creating: remove the container
 *
 *   output:  writing ──▶ (removed)                     writing: remove what was written so far
 */
export type Entry = SourceEntry | TargetEntry | RestoreEntry | OutputEntry;

interface Common {
  operation: string;
  peer: string;
}

/** Containers of a pod that are being dumped: to a peer, or (peer "") into a checkpoint. */
export interface SourceEntry extends Common {
  role: 'source';
  state: SourceState;
  /** IDs. */
  containers: string[];
  sandbox: string;
  /** The checkpoint has its connections: their other ends are not to hear of its end. */
  keepsConnections?: boolean;
  /** The rest is a migration's only. */
  sandboxMetadata?: SandboxKey;
  /** Cold: they are stopped, and not frozen; to let them go on is to start them again. */
  mode?: 'cold';
  /** Cold: how long they have from their stop signal on; -1: as the pod says. */
  graceSeconds?: number;
  /** The pod's, which go with it. */
  addresses?: Address[];
  /** Of each container, at the freeze. */
  processes?: number[];
  /** The pod's state at the freeze, for a rollback. */
  retained?: Retained;
}

/** What the runtime reserves for a sandbox: finds it also when its ID was never learned. */
export interface SandboxKey {
  name: string;
  namespace: string;
  uid: string;
  attempt: number;
}

export interface Retained {
  /** Path of a pod's archive. */
  archive: string;
  bytes: number;
  /** Milliseconds since 1970. */
  until: number;
}

export interface TargetEntry extends Common {
  role: 'target';
  state: TargetState;
  sandboxMetadata: SandboxKey;
  sandbox: string;
  containers: TargetContainer[];
}

export interface TargetContainer {
  id: string;
  /** The pod may not serve with fewer; 0 until the commit has told. */
  processes: number;
  /** PIDs, as the container counts, of those that somebody had stopped before the dump. */
  stopped: number[];
}

/** A container that is being made from a checkpoint folder: what CRI reserves for it, because it may have no ID yet. */
export interface RestoreEntry extends Common {
  role: 'restore';
  state: 'creating';
  /** "" when it is made for the container. */
  sandbox: string;
  /** One of several, for which the network of a sandbox that was there before is shut. */
  isShut?: boolean;
  /** Of a sandbox that is made for it. */
  sandboxUid?: string;
  /** Where there may be others of that UID. */
  sandboxAttempt?: number;
  name: string;
  attempt: number;
}

/** The file or folder that a checkpoint is written into: known here before it is there, until it is whole. */
export interface OutputEntry extends Common {
  role: 'output';
  state: 'writing';
  path: string;
}

/** The journal of one node's migrations. Only legal transitions are written. */
export class Journal {
  readonly #folder: string;
  /** What is on disk: an entry is read there only once, by {@link load}. */
  readonly #entries = new Map<string, Entry>();

  private constructor(folder: string) {
    this.#folder = folder;
  }

  static async open(stateDir: string): Promise<Journal> {
    const folder = join(stateDir, 'migrations');
    await makePrivateFolder(folder);
    // What an agent was writing when it died was never said to anybody.
    for (const name of await readdir(folder)) if (name.endsWith('.new')) await rm(join(folder, name));
    return new Journal(folder);
  }

  /**
   * Every entry on disk, to be recovered. At the start only: it takes no note of what is being written.
   * Errors: INTERNAL, for a version this program does not know.
   */
  async load(): Promise<Entry[]> {
    const names = (await readdir(this.#folder)).filter((name) => name.endsWith('.json'));
    const entries = await Promise.all(names.map((name) => this.#read(join(this.#folder, name))));
    for (const entry of entries) this.#entries.set(key(entry), entry);
    return entries;
  }

  async write(entry: Entry): Promise<void> {
    const from = this.stateOf(entry.role, entry.operation);
    if (!mayFollow(entry.role, from, entry.state)) {
      throw new GantryError('INTERNAL', `illegal step of the ${entry.role}: from "${from}" to "${entry.state}"`);
    }
    await writeDurably(this.#file(entry), `${JSON.stringify({ version: VERSION, ...entry })}\n`);
    this.#entries.set(key(entry), entry);
  }

  async remove(entry: Entry): Promise<void> {
    await removeDurably(this.#file(entry));
    this.#entries.delete(key(entry));
  }

  /** One side of a migration as it stands on disk, undefined when nothing is known of it. */
  find<Role extends Entry['role']>(role: Role, operation: string): Extract<Entry, { role: Role }> | undefined {
    return this.#entries.get(`${operation}.${role}`) as Extract<Entry, { role: Role }> | undefined;
  }

  /** Everything of one kind that is not over. */
  pending<Role extends Entry['role']>(role: Role): Extract<Entry, { role: Role }>[] {
    return [...this.#entries.values()].filter((entry) => entry.role === role) as Extract<Entry, { role: Role }>[];
  }

  /** The state of one side of a migration, "" when nothing is known of it. */
  stateOf(role: Entry['role'], operation: string): string {
    return this.find(role, operation)?.state ?? '';
  }

  #file(entry: Entry): string {
    return join(this.#folder, `${key(entry)}.json`);
  }

  async #read(file: string): Promise<Entry> {
    const { version, ...entry } = JSON.parse(await readFile(file, 'utf8')) as Entry & { version: number };
    if (version !== VERSION) {
      throw new GantryError('INTERNAL', `${file} is of version ${version}, this program knows ${VERSION}`);
    }
    return entry;
  }
}

function key(entry: Entry): string {
  return `${entry.operation}.${entry.role}`;
}
