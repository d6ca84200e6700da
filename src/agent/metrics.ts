import Counter from 'prom-client/lib/counter.js';
import Gauge from 'prom-client/lib/gauge.js';
import Histogram from 'prom-client/lib/histogram.js';
import Registry from 'prom-client/lib/registry.js';
import { messageOf } from '../errors.ts';
import type { Migration } from '../gen/gantry/v1/agent.ts';
import type { Log } from '../log.ts';
import type { Journal } from '../migrate/journal.ts';
import type { Migrations } from '../migrate/migrations.ts';
import { metricsAddress } from '../proxy/metrics-address.ts';
import { type MetricsServer, serveMetrics } from '../proxy/metrics-server.ts';
import { addProcessMetrics } from '../proxy/process-metrics.ts';
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
    const directions = ['out', 'in'] as const;
    this.#gauge('gantry_migrations_running', 'Migrations under way.', ['direction'], (set) => {
      for (const direction of directions) set(migrations.running(direction), { direction });
    });
    this.#gauge('gantry_migrations_waiting', 'Migrations that wait for a place on this node.', [], (set) =>
      set(migrations.out.waiting, {}),
    );
    this.#gauge('gantry_migration_places', 'How many may be under way.', ['direction'], (set) => {
      set(config.maxMigrationsOut, { direction: 'out' });
      set(config.maxMigrationsIn, { direction: 'in' });
    });
    this.#gauge('gantry_journal_entries', 'What is not over, by role and state.', ['role', 'state'], (set) => {
      const counts = new Map<string, number>();
      for (const role of ['source', 'target', 'restore', 'output'] as const)
        for (const { state } of journal.pending(role)) {
          const key = `${role} ${state}`;
          counts.set(key, (counts.get(key) ?? 0) + 1);
        }
      for (const [key, count] of counts) {
        const [role = '', state = ''] = key.split(' ');
        set(count, { role, state });
      }
    });
    const kept = () => journal.pending('source').flatMap(({ retained }) => (retained === undefined ? [] : [retained]));
    this.#gauge('gantry_retained_bytes', 'Kept states of pods that have moved away.', [], (set) =>
      set(
        kept().reduce((total, one) => total + one.bytes, 0),
        {},
      ),
    );
    this.#gauge('gantry_retained_states', 'How many.', [], (set) => set(kept().length, {}));
    addProcessMetrics(this.registry);
  }

  /** @param outcome "ok", or the reason */
  operationEnded(verb: string, outcome: string, elapsedMs: number): void {
    this.#verbs.inc({ verb, outcome });
    this.#verbSeconds.observe({ verb }, elapsedMs / 1000);
  }

  #gauge<Label extends string>(
    name: string,
    help: string,
    labelNames: Label[],
    collect: (set: (value: number, labels: Record<Label, string> | Record<string, never>) => void) => void,
  ): void {
    new Gauge({
      name,
      help,
      labelNames,
      registers: [this.registry],
      collect() {
        this.reset();
        collect((value, labels) => this.set(labels as Record<Label, string>, value));
      },
    });
  }
}

/** Serves them where the configuration says so; an agent whose metrics cannot be served does its work all the same. */
export async function metricsOf(
  subject: Subject & { readonly config: AgentConfig },
  log: Log,
): Promise<{ metrics: AgentMetrics; server: MetricsServer | undefined }> {
  const metrics = new AgentMetrics(subject);
  try {
    const address = metricsAddress(subject.config.metrics);
    if (address === undefined) throw new Error('it is no address of this machine');
    const server = await serveMetrics(metrics.registry, address);
    log.info('metrics', { address: server.address });
    return { metrics, server };
  } catch (error) {
    log.error('metrics-failed', { address: subject.config.metrics, reason: messageOf(error) });
    return { metrics, server: undefined };
  }
}
