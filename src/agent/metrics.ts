import Counter from 'prom-client/lib/counter.js';
import Gauge from 'prom-client/lib/gauge.js';
import Histogram from 'prom-client/lib/histogram.js';
import Registry from 'prom-client/lib/registry.js';
import type { Migration } from '../gen/gantry/v1/agent.ts';
import type { Log } from '../log.ts';
import type { Journal } from '../migrate/journal.ts';
import type { Migrations } from '../migrate/migrations.ts';
import { type MetricsServer, tryToServe } from '../proxy/metrics-server.ts';
import { addGauges, addProcessMetrics } from '../proxy/read-metrics.ts';
import type { AgentConfig } from './config.ts';

/** Seconds: from what a commit takes to what the files of a large pod take. */
const SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800];

/** What is read when somebody asks. */
export interface Subject {
  readonly config: Pick<AgentConfig, 'maxMigrationsOut' | 'maxMigrationsIn'>;
  readonly journal: Pick<Journal, 'pending'>;
  readonly migrations: Pick<Migrations, 'running' | 'onEnded' | 'out'>;
}

/** The agent's metrics for Prometheus. Names and meanings stand in docs/metrics.md. */
export class AgentMetrics {
  readonly registry = new Registry();
  readonly #verbs: Counter<'verb' | 'outcome'>;
  readonly #verbSeconds: Histogram<'verb'>;

  constructor(subject: Subject) {
    const registers = [this.registry];
    const { config, journal, migrations } = subject;
    this.#verbs = new Counter({
      name: 'gantry_operations_total',
      help: 'What was asked of the agent and has ended, by verb; outcome is "ok" or the reason of the failure.',
      labelNames: ['verb', 'outcome'],
      registers,
    });
    this.#verbSeconds = new Histogram({
      name: 'gantry_operation_seconds',
      help: 'How long it took, however it ended.',
      labelNames: ['verb'],
      buckets: SECONDS,
      registers,
    });
    const ended = new Counter({
      name: 'gantry_migrations_total',
      help: 'Migrations that nobody works on any more, by direction, mode and state.',
      labelNames: ['direction', 'mode', 'state'],
      registers,
    });
    const bytes = new Counter({
      name: 'gantry_migration_bytes_total',
      help: 'Files and memory, sent (out) and received (in).',
      labelNames: ['direction'],
      registers,
    });
    const phases = new Histogram({
      name: 'gantry_migration_phase_seconds',
      help: 'Phases of migrations that have ended.',
      labelNames: ['direction', 'phase'],
      buckets: SECONDS,
      registers,
    });
    const frozen = new Histogram({
      name: 'gantry_migration_frozen_seconds',
      help: 'From the freeze (cold: the stop) until the pod served at the target.',
      labelNames: ['mode'],
      buckets: SECONDS,
      registers,
    });
    migrations.onEnded((migration: Migration) => {
      const { direction, mode, state } = migration;
      ended.inc({ direction, mode, state });
      bytes.inc({ direction }, Number(migration.bytes));
      for (const { name, durationMs } of migration.phases)
        phases.observe({ direction, phase: name }, durationMs / 1000);
      if (state === 'serving' && migration.frozenMs > 0) frozen.observe({ mode }, migration.frozenMs / 1000);
    });
    const running = new Gauge({
      name: 'gantry_migrations_running',
      help: 'Migrations under way.',
      labelNames: ['direction'],
      registers,
      collect: () => {
        for (const direction of ['out', 'in'] as const) running.set({ direction }, migrations.running(direction));
      },
    });
    const places = new Gauge({
      name: 'gantry_migration_places',
      help: 'How many may be under way.',
      labelNames: ['direction'],
      registers,
    });
    places.set({ direction: 'out' }, config.maxMigrationsOut);
    places.set({ direction: 'in' }, config.maxMigrationsIn);
    const entries = new Gauge({
      name: 'gantry_journal_entries',
      help: 'What is not over, by role and state.',
      labelNames: ['role', 'state'],
      registers,
      collect: () => {
        entries.reset();
        for (const role of ['source', 'target', 'restore', 'output'] as const)
          for (const { state } of journal.pending(role)) entries.inc({ role, state });
      },
    });
    const kept = () => journal.pending('source').flatMap(({ retained }) => (retained === undefined ? [] : [retained]));
    const keptBytes = () => kept().reduce((total, { bytes: own }) => total + own, 0);
    addGauges(this.registry, [
      ['gantry_migrations_waiting', 'Migrations that wait for a place on this node.', () => migrations.out.waiting],
      ['gantry_retained_bytes', 'Kept states of pods that have moved away.', keptBytes],
      ['gantry_retained_states', 'How many.', () => kept().length],
    ]);
    addProcessMetrics(this.registry);
  }

  /** @param outcome "ok", or the reason */
  operationEnded(verb: string, outcome: string, elapsedMs: number): void {
    this.#verbs.inc({ verb, outcome });
    this.#verbSeconds.observe({ verb }, elapsedMs / 1000);
  }
}

/** Serves them where the configuration says so. */
export async function metricsOf(
  subject: Subject & { readonly config: AgentConfig },
  log: Log,
): Promise<{ metrics: AgentMetrics; server: MetricsServer | undefined }> {
  const metrics = new AgentMetrics(subject);
  return { metrics, server: await tryToServe(metrics.registry, subject.config.metrics, log) };
}
