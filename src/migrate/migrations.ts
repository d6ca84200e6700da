import { EventEmitter } from 'node:events';
import type { AgentConfig } from '../agent/config.ts';
import type { Operation } from '../agent/operation.ts';
import { GantryError } from '../errors.ts';
import { Migration, MigrationEvent } from '../gen/gantry/v1/agent.ts';
import type { Log } from '../log.ts';
import type { Journal } from './journal.ts';
import { Places } from './queue.ts';
import { type Change, type MigrationRecord, Records, type Side } from './records.ts';

/** What the journal says of a side that nobody works on: it knows what was done since. */
const JOURNALED: Readonly<Record<Side, Readonly<Record<string, string>>>> = {
  source: {
    frozen: 'settling',
    committed: 'settling',
    retained: 'serving',
    reserved: 'serving',
    reverting: 'reverting',
    settled: 'rolled-back',
  },
  target: {
    preparing: 'settling',
    resuming: 'settling',
    serving: 'serving',
    final: 'serving',
    failed: 'rolled-back',
    ended: 'rolled-back',
  },
};

/** All migrations of a node: records of those that were, and those that run, to be watched and cancelled. */
export class Migrations {
  readonly records: Records;
  /** How many may run at a time. */
  readonly out: Places;
  readonly in: Places;
  readonly #journal: Journal;
  /** By operation: a node has one side only. */
  readonly #running = new Map<string, Running>();
  readonly #events = new EventEmitter<{ event: [MigrationEvent]; ended: [Migration] }>().setMaxListeners(0);

  private constructor(records: Records, journal: Journal, config: AgentConfig) {
    this.records = records;
    this.#journal = journal;
    this.out = new Places(config.maxMigrationsOut);
    this.in = new Places(config.maxMigrationsIn);
  }

  static async open(config: AgentConfig, journal: Journal, log: Log): Promise<Migrations> {
    return new Migrations(await Records.open(config.stateDir, config.migrationsKept, log), journal, config);
  }

  /** One begins; who asked for it ends it. Resolves when its record is written. */
  async begin(
    side: Side,
    operation: Operation,
    facts: Pick<MigrationRecord, 'pod' | 'containers' | 'peer' | 'mode'>,
  ): Promise<Running> {
    const { id } = operation;
    const stopListening = operation.onEvent((event) => this.#tell({ id, event }));
    const running = new Running(this, side, operation, () => {
      stopListening();
      this.#running.delete(id);
      // A very small limit may have removed the record of a long one.
      const record = this.records.find(side, id);
      if (record === undefined) return;
      const migration = this.#describe(record);
      this.#tell({ id, migration });
      this.#events.emit('ended', migration);
    });
    this.#running.set(id, running);
    const written = this.records.begin({ operation: id, side, ...facts });
    this.#tell({ id, migration: this.#find(id) });
    await written;
    return running;
  }

  /** Each time nobody works on one any more. */
  onEnded(tell: (migration: Migration) => void): void {
    this.#events.on('ended', tell);
  }

  /** How many are under way. */
  running(direction: 'out' | 'in'): number {
    return [...this.#running.values()].filter(({ side }) => (side === 'source') === (direction === 'out')).length;
  }

  /** The newest first. Errors: NOT_FOUND, for a prefix of none, or of several. */
  list(prefix: string): Migration[] {
    return prefix === '' ? this.records.all().map((record) => this.#describe(record)) : [this.#find(prefix)];
  }

  /**
   * Tells of those that run, until the signal, or until the one that is asked for is over: its end is the last event.
   * Errors: NOT_FOUND.
   */
  async watch(prefix: string, tell: (event: MigrationEvent) => void, signal: AbortSignal): Promise<void> {
    const wanted = prefix === '' ? undefined : this.#find(prefix).id;
    if (signal.aborted) return;
    const over = Promise.withResolvers<void>();
    const listen = (event: MigrationEvent) => {
      if (wanted !== undefined && event.id !== wanted) return;
      tell(event);
      if (wanted !== undefined && !this.#running.has(wanted)) over.resolve();
    };
    signal.addEventListener('abort', () => over.resolve(), { once: true });
    this.#events.on('event', listen);
    try {
      const shown = wanted === undefined ? [...this.#running.keys()] : [wanted];
      for (const id of shown) {
        listen(MigrationEvent.fromPartial({ id, migration: this.#find(id) }));
        for (const event of this.#running.get(id)?.operation.soFar() ?? [])
          listen(MigrationEvent.fromPartial({ id, event }));
      }
      const running = wanted === undefined ? undefined : this.#running.get(wanted);
      await Promise.race([over.promise, ...(running === undefined ? [] : [running.over])]);
    } finally {
      this.#events.off('event', listen);
    }
  }

  /**
   * Rolls back one that this node is the source of. Resolves, with how it ended, when that is done.
   * Errors: NOT_FOUND; CONFLICT, when it is over, committed, or not this node's to cancel.
   */
  async cancel(prefix: string): Promise<Migration> {
    const { id, direction, peer, state } = this.#find(prefix);
    const running = this.#running.get(id);
    if (direction === 'in' && running !== undefined) {
      throw new GantryError('CONFLICT', `migration ${id} comes from node ${peer}`, {
        hint: `on that node: gantry migrations cancel ${id}`,
      });
    }
    if (running === undefined && state !== 'settling')
      throw new GantryError('CONFLICT', `migration ${id} is over: ${state}`);
    if (running === undefined || !running.operation.cancel()) {
      throw new GantryError('CONFLICT', `migration ${id} is committed, and will be carried through`, {
        hint: `gantry migrations show ${id} tells how it ends`,
      });
    }
    await running.over;
    return this.#find(id);
  }

  #find(prefix: string): Migration {
    const found = this.records.all().filter(({ operation }) => operation.startsWith(prefix));
    const [record] = found;
    if (record === undefined || prefix === '') {
      throw new GantryError('NOT_FOUND', `there is no migration ${prefix} on this node`, {
        hint: 'gantry migrations lists them',
      });
    }
    if (found.length > 1) throw new GantryError('NOT_FOUND', `${prefix} begins the IDs of ${found.length} migrations`);
    return this.#describe(record);
  }

  #describe(record: MigrationRecord): Migration {
    const { operation: id, side, pod, bytes, phases, ...same } = record;
    const operation = this.#running.get(id)?.operation;
    const journaled = JOURNALED[side][this.#journal.stateOf(side, id)] ?? record.state;
    return Migration.fromPartial({
      ...same,
      id,
      direction: side === 'source' ? 'out' : 'in',
      namespace: pod.namespace,
      pod: pod.name,
      state: operation === undefined ? journaled : 'running',
      phases: operation?.phases ?? phases,
      running: [...(operation?.running ?? [])],
      bytes: BigInt(operation?.bytesSent ?? bytes),
      endedUnixMs: operation === undefined ? record.endedUnixMs : 0,
    });
  }

  #tell(event: Parameters<typeof MigrationEvent.fromPartial>[0]): void {
    this.#events.emit('event', MigrationEvent.fromPartial(event));
  }
}

/** One side of a migration that somebody works on. */
export class Running {
  readonly operation: Operation;
  readonly #migrations: Migrations;
  readonly side: Side;
  readonly #leave: () => void;
  readonly #over = Promise.withResolvers<void>();

  constructor(migrations: Migrations, side: Side, operation: Operation, leave: () => void) {
    this.#migrations = migrations;
    this.side = side;
    this.operation = operation;
    this.#leave = leave;
  }

  /** Resolves when it has ended and its record is written. */
  get over(): Promise<void> {
    return this.#over.promise;
  }

  /** What has come to be known. Not waited for: nothing rests on a record. */
  note(change: Change): void {
    void this.#migrations.records.change(this.side, this.operation.id, change);
  }

  /** Nobody works on it any more. Without a state, the journal has what becomes of it. */
  async end(change: Change): Promise<void> {
    const { id, phases, bytesSent: bytes } = this.operation;
    const timeline = phases.map(({ name, startMs, durationMs }) => ({ name, startMs, durationMs }));
    const written = this.#migrations.records.change(this.side, id, { phases: timeline, bytes, ...change });
    this.#leave();
    await written;
    this.#over.resolve();
  }
}
