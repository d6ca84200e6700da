import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Migration } from '../gen/gantry/v1/agent.ts';
import { AgentMetrics, type Subject } from './metrics.ts';

function subject(): { of: Subject; end: (migration: Parameters<typeof Migration.fromPartial>[0]) => void } {
  const listeners: ((migration: Migration) => void)[] = [];
  const entries = [
    { role: 'source', state: 'committed' },
    { role: 'source', state: 'retained', retained: { archive: '', bytes: 1000, until: 0 } },
    { role: 'source', state: 'retained', retained: { archive: '', bytes: 200, until: 0 } },
    { role: 'target', state: 'serving' },
  ];
  const of = {
    config: { maxMigrationsOut: 2, maxMigrationsIn: 3 },
    journal: { pending: (role: string) => entries.filter((entry) => entry.role === role) },
    migrations: {
      running: (direction: string) => (direction === 'in' ? 1 : 0),
      onEnded: (tell: (migration: Migration) => void) => void listeners.push(tell),
      out: { waiting: 4 },
    },
  } as unknown as Subject;
  const end = (fields: Parameters<typeof Migration.fromPartial>[0]) => {
    for (const tell of listeners) tell(Migration.fromPartial(fields));
  };
  return { of, end };
}

test('tells what has ended, and what is there when it is asked', async () => {
  const { of, end } = subject();
  const metrics = new AgentMetrics(of);
  end({
    direction: 'out',
    mode: 'cold',
    state: 'serving',
    bytes: 7n,
    frozenMs: 400,
    phases: [{ name: 'stop', durationMs: 90 }],
  });
  end({ direction: 'out', mode: 'cold', state: 'rolled-back', bytes: 5n, frozenMs: 400 });
  metrics.operationEnded('migrate', 'TIMEOUT', 1500);
  const text = await metrics.registry.metrics();
  const lines = text.split('\n');
  for (const line of [
    'gantry_migrations_total{direction="out",mode="cold",state="serving"} 1',
    'gantry_migrations_total{direction="out",mode="cold",state="rolled-back"} 1',
    'gantry_migration_bytes_total{direction="out"} 12',
    'gantry_migration_frozen_seconds_count{mode="cold"} 1',
    'gantry_migration_phase_seconds_bucket{le="0.1",direction="out",phase="stop"} 1',
    'gantry_migrations_running{direction="in"} 1',
    'gantry_migrations_waiting 4',
    'gantry_migration_places{direction="in"} 3',
    'gantry_journal_entries{role="source",state="retained"} 2',
    'gantry_journal_entries{role="source",state="committed"} 1',
    'gantry_retained_bytes 1200',
    'gantry_retained_states 2',
    'gantry_operations_total{verb="migrate",outcome="TIMEOUT"} 1',
    'gantry_operation_seconds_sum{verb="migrate"} 1.5',
  ])
    expect(lines).toContain(line);
});

test('the documentation has each of them, and no other', async () => {
  const names = new AgentMetrics(subject().of).registry.getMetricsAsArray().map(({ name }) => name);
  const text = await readFile(join(import.meta.dirname, '../../docs/metrics.md'), 'utf8');
  const rows = text.split('\n').filter((line) => line.startsWith('| `'));
  const told = rows.flatMap((row) => [...(row.split('|')[1] ?? '').matchAll(/`([a-z_]+)`/g)].map(([, name]) => name));
  expect(told.sort()).toEqual(names.sort());
});
