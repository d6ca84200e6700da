import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { makePrivateFolder, removeDurably, writeDurably } from '../durable.ts';
import { type GantryError, messageOf } from '../errors.ts';
import type { Log } from '../log.ts';

const VERSION = 1;

/**
 * `serving`: it is over, and the pod has gone to live on the target. `rolled-back`: it was undone, and the pod goes on at
 * the source. `failed`: it ended before anything had been done.
 */
const STATES = ['running', 'serving', 'rolled-back', 'failed'] as const;

const SCHEMA = z.object({
  version: z.literal(VERSION),
  operation: z.string().regex(/^[0-9a-f]{16}$/),
  side: z.enum(['source', 'target']),
  pod: z.object({ namespace: z.string(), name: z.string() }),
  /** IDs on this node. */
  containers: z.array(z.string()),
  peer: z.string(),
  mode: z.string(),
  state: z.enum(STATES),
  phases: z.array(z.object({ name: z.string(), startMs: z.number(), durationMs: z.number() })),
  /** Of its streams, sent or received. */
  bytes: z.number(),
  /** From the freeze until the processes ran again; 0 on the target, and where it never came to that. */
  frozenMs: z.number(),
  /** Why it failed; "" otherwise. */
  reason: z.string(),
  message: z.string(),
  startedUnixMs: z.number(),
  /** 0 while it runs. */
  endedUnixMs: z.number(),
});

/** What one side of a migration came to: for people. The journal is what decides (docs/handover.md). */
export type MigrationRecord = Omit<z.infer<typeof SCHEMA>, 'version'>;
export type Side = MigrationRecord['side'];
export type Change = Partial<Omit<MigrationRecord, 'operation' | 'side'>>;

const CUT_OFF = { reason: 'AGENT_UNAVAILABLE', message: 'cut off: the agent ended' } satisfies Change & {
  reason: GantryError['reason'];
};

/**
 * Records of this node's migrations in both directions, each a durable file. A record that cannot be written is told to
 * the log: no migration fails for it.
 */
export class Records {
  readonly #folder: string;
  readonly #kept: number;
  readonly #log: Log;
  readonly #records = new Map<string, MigrationRecord>();
  /** Ends when all that was asked for so far is on disk. Never rejects. */
  #written: Promise<void> = Promise.resolve();

  private constructor(folder: string, kept: number, log: Log) {
    this.#folder = folder;
    this.#kept = kept;
    this.#log = log;
  }

  /** Reads those that are there, but for damaged ones, which stay where they are. */
  static async open(stateDir: string, kept: number, log: Log): Promise<Records> {
    // Not in the journal's folder: what lies there is to be settled.
    const folder = join(stateDir, 'history');
    await makePrivateFolder(folder);
    const records = new Records(folder, kept, log);
    for (const name of await readdir(folder)) {
      const file = join(folder, name);
      if (name.endsWith('.new')) await removeDurably(file);
      else if (name.endsWith('.json')) await records.#read(file);
    }
    return records;
  }

  /** The newest first. */
  all(): MigrationRecord[] {
    return [...this.#records.values()].toSorted((a, b) => b.startedUnixMs - a.startedUnixMs);
  }

  find(side: Side, operation: string): MigrationRecord | undefined {
    return this.#records.get(`${operation}.${side}`);
  }

  /** Resolves when all that was told so far is on disk, or was told to the log. */
  get written(): Promise<void> {
    return this.#written;
  }

  /** A new one. Resolves when it is on disk; the oldest that are over make room. */
  async begin(begun: Pick<MigrationRecord, 'operation' | 'side' | 'pod' | 'containers' | 'peer' | 'mode'>) {
    const nothing = { phases: [], bytes: 0, frozenMs: 0, reason: '', message: '', endedUnixMs: 0 };
    this.#set({ ...nothing, ...begun, state: 'running', startedUnixMs: Date.now() });
    const over = this.all().filter(({ state }) => state !== 'running');
    const tooMany = Math.max(0, this.#records.size - this.#kept);
    for (const record of over.toReversed().slice(0, tooMany)) {
      this.#records.delete(keyOf(record));
      this.#inTurn(record, () => removeDurably(this.#file(record)));
    }
    await this.#written;
  }

  /** Resolves when it is on disk. What has no record (a checkpoint, one whose record is lost) has none to change. */
  async change(side: Side, operation: string, change: Change): Promise<void> {
    const before = this.find(side, operation);
    if (before === undefined) return;
    const record = { ...before, ...change };
    if (record.state !== 'running' && record.endedUnixMs === 0) record.endedUnixMs = Date.now();
    this.#set(record);
    await this.#written;
  }

  /**
   * What ran when the agent before ended. To be called before the journal is settled.
   *
   * @param journaled whether there is an entry: then the state is what becomes of that
   */
  async cutOff(journaled: (record: MigrationRecord) => boolean): Promise<void> {
    for (const record of this.all().filter(({ state }) => state === 'running')) {
      const state = journaled(record) ? 'running' : 'rolled-back';
      await this.change(record.side, record.operation, { ...CUT_OFF, state });
    }
  }

  #set(record: MigrationRecord): void {
    this.#records.set(keyOf(record), record);
    this.#inTurn(record, () =>
      writeDurably(this.#file(record), `${JSON.stringify({ version: VERSION, ...record }, null, 1)}\n`),
    );
  }

  #inTurn({ operation }: MigrationRecord, step: () => Promise<void>): void {
    this.#written = this.#written
      .then(step)
      .catch((error: unknown) => this.#log.warn('record-not-written', { operation, why: messageOf(error) }));
  }

  async #read(file: string): Promise<void> {
    try {
      const { version: _, ...record } = SCHEMA.parse(JSON.parse(await readFile(file, 'utf8')));
      this.#records.set(keyOf(record), record);
    } catch (error) {
      this.#log.warn('record-unreadable', { file, why: messageOf(error) });
    }
  }

  #file(record: MigrationRecord): string {
    return join(this.#folder, `${keyOf(record)}.json`);
  }
}

function keyOf({ operation, side }: MigrationRecord): string {
  return `${operation}.${side}`;
}
