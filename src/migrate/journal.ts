import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makePrivateFolder, removeDurably, writeDurably } from '../durable.ts';
import { GantryError } from '../errors.ts';

const VERSION = 1;

/**
 * What each side must know after a crash, one durable file per migration and side.
 *
 *   source:  frozen ──▶ committed ──▶ (removed)        frozen: may thaw; committed: never runs again unless the target
 *                                                      durably says that it failed before it resumed anything
 *   target:  preparing ──▶ resuming ──▶ serving        preparing: remove the placeholder; resuming: look whether it runs
 *                  └───────────┴──────▶ failed
 */
export type Entry = SourceEntry | TargetEntry;

interface Common {
  operation: string;
  peer: string;
}

export interface SourceEntry extends Common {
  role: 'source';
  state: 'frozen' | 'committed';
  container: string;
  sandbox: string;
}

export interface TargetEntry extends Common {
  role: 'target';
  state: 'preparing' | 'resuming' | 'serving' | 'failed';
  /** What the runtime reserves for a sandbox: finds it also when its ID was never learned. */
  sandboxMetadata: { name: string; namespace: string; uid: string; attempt: number };
  sandbox: string;
  container: string;
  processes: number;
}

const NEXT: Record<Entry['role'], Record<string, readonly string[]>> = {
  source: { '': ['frozen'], frozen: ['committed'], committed: [] },
  target: {
    '': ['preparing'],
    preparing: ['preparing', 'resuming', 'failed'],
    resuming: ['serving', 'failed'],
    serving: [],
    failed: [],
  },
};

/** The journal of one node's migrations. Only legal transitions are written. */
export class Journal {
  readonly #folder: string;
  readonly #states = new Map<string, string>();

  private constructor(folder: string) {
    this.#folder = folder;
  }

  static async open(stateDir: string): Promise<Journal> {
    const folder = join(stateDir, 'migrations');
    await makePrivateFolder(folder);
    return new Journal(folder);
  }

  /** Every entry on disk, to be recovered. Errors: INTERNAL, for a version this program does not know. */
  async load(): Promise<Entry[]> {
    const names = (await readdir(this.#folder)).filter((name) => name.endsWith('.json'));
    const entries = await Promise.all(names.map((name) => this.#read(join(this.#folder, name))));
    for (const entry of entries) this.#states.set(key(entry), entry.state);
    return entries;
  }

  async write(entry: Entry): Promise<void> {
    const from = this.#states.get(key(entry)) ?? '';
    if (!NEXT[entry.role][from]?.includes(entry.state)) {
      throw new GantryError('INTERNAL', `illegal step of the ${entry.role}: from "${from}" to "${entry.state}"`);
    }
    await writeDurably(this.#file(entry), `${JSON.stringify({ version: VERSION, ...entry })}\n`);
    this.#states.set(key(entry), entry.state);
  }

  async remove(entry: Entry): Promise<void> {
    await removeDurably(this.#file(entry));
    this.#states.delete(key(entry));
  }

  /** The state of one side of a migration, "" when nothing is known of it. */
  stateOf(role: Entry['role'], operation: string): string {
    return this.#states.get(`${operation}.${role}`) ?? '';
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
