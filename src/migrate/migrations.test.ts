import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AgentConfig } from '../agent/config.ts';
import { Operation } from '../agent/operation.ts';
import type { MigrationEvent } from '../gen/gantry/v1/agent.ts';
import { logTo } from '../log.ts';
import { Journal, type SourceEntry } from './journal.ts';
import { Migrations } from './migrations.ts';

let stateDir: string;
let journal: Journal;
let migrations: Migrations;

beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'migrations-'));
  journal = await Journal.open(stateDir);
  const config = { stateDir, migrationsKept: 10, maxMigrationsIn: 1, maxMigrationsOut: 1 } as AgentConfig;
  migrations = await Migrations.open(config, journal, logTo({ write: () => undefined }));
});
afterEach(() => rm(stateDir, { recursive: true, force: true }));

const FACTS = { pod: { namespace: 'default', name: 'redis' }, containers: ['c1'], peer: 'b', mode: 'stop-and-copy' };
const never = new AbortController().signal;

async function running(side: 'source' | 'target' = 'source') {
  const operation = new Operation('redis');
  return { operation, id: operation.id, side: await migrations.begin(side, operation, FACTS) };
}

/** Keys of what a watcher is told. */
function told(events: readonly MigrationEvent[]): string[] {
  return events.map(({ event, migration }) => {
    if (migration !== undefined) return `migration ${migration.state}`;
    return event?.phaseStarted ? `begins ${event.phaseStarted.name}` : `ended ${event?.phase?.name}`;
  });
}

describe('watch', () => {
  it('tells what was missed, what comes, and the end of the one that is asked for', async () => {
    const { operation, id, side } = await running();
    const other = await running();
    await operation.phase('check', () => Promise.resolve());
    const dump = Promise.withResolvers<void>();
    const dumping = operation.phase('dump', () => dump.promise);
    const events: MigrationEvent[] = [];
    const watching = migrations.watch(id.slice(0, 12), (event) => events.push(event), never);
    await other.side.end({ state: 'serving' });
    dump.resolve();
    await dumping;
    await side.end({ state: 'serving', frozenMs: 3 });
    await watching;
    const expected = ['migration running', 'ended check', 'begins dump', 'ended dump', 'migration serving'];
    expect(told(events)).toEqual(expected);
  });

  it('tells of one that is over at once, and of none that there is not', async () => {
    const { id, side } = await running();
    await side.end({ state: 'failed' });
    const events: MigrationEvent[] = [];
    await migrations.watch(id, (event) => events.push(event), never);
    expect(told(events)).toEqual(['migration failed']);
    await expect(migrations.watch('xyz', () => undefined, never)).rejects.toMatchObject({ reason: 'NOT_FOUND' });
  });
});

describe('cancel', () => {
  it('answers when the rollback is done', async () => {
    const { operation, id, side } = await running();
    let isDone = false;
    operation.signal.addEventListener('abort', () => {
      setTimeout(() => {
        isDone = true;
        void side.end({ state: 'rolled-back', reason: 'CANCELLED', message: 'cancelled' });
      }, 20);
    });
    expect(await migrations.cancel(id)).toMatchObject({ id, state: 'rolled-back' });
    expect(isDone).toBe(true);
    await expect(migrations.cancel(id)).rejects.toMatchObject({ reason: 'CONFLICT' });
  });

  it('is refused after the commit, and where the migration arrives', async () => {
    const { operation, id } = await running();
    operation.commit();
    const late = { reason: 'CONFLICT', message: expect.stringMatching(/is committed/) };
    await expect(migrations.cancel(id)).rejects.toMatchObject(late);
    const incoming = await running('target');
    const elsewhere = { reason: 'CONFLICT', hint: expect.stringMatching(/on that node/) };
    await expect(migrations.cancel(incoming.id)).rejects.toMatchObject(elsewhere);
    expect(incoming.operation.signal.aborted).toBe(false);
  });
});

describe('list', () => {
  it('has the word of the journal where nobody works on it any more', async () => {
    const { id, side } = await running();
    const entry: SourceEntry = {
      role: 'source',
      state: 'frozen',
      operation: id,
      peer: 'b',
      containers: ['c1'],
      sandbox: 's1',
    };
    await journal.write(entry);
    await journal.write({ ...entry, state: 'committed' });
    expect(migrations.list(id)).toMatchObject([{ state: 'running' }]);
    await side.end({ reason: 'OUTCOME_UNKNOWN', message: 'lost' });
    expect(migrations.list('')).toMatchObject([{ id, state: 'settling', reason: 'OUTCOME_UNKNOWN' }]);
    await migrations.records.change('source', id, { state: 'serving' });
    await journal.remove(entry);
    expect(migrations.list(id)).toMatchObject([{ state: 'serving' }]);
  });
});
