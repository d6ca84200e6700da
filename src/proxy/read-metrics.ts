import { readdirSync } from 'node:fs';
import type { Registry } from 'prom-client';
import Counter from 'prom-client/lib/counter.js';
import Gauge from 'prom-client/lib/gauge.js';

/** A metric without labels that is read when somebody asks. */
type Read = readonly [name: string, help: string, value: () => number];

export function addGauges(registry: Registry, gauges: readonly Read[]): void {
  for (const [name, help, value] of gauges) {
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(value());
      },
    });
  }
}

/** @param totals what only grows, and is counted elsewhere */
export function addTotals(registry: Registry, totals: readonly Read[]): void {
  for (const [name, help, value] of totals) {
    new Counter({
      name,
      help,
      registers: [registry],
      collect() {
        this.reset();
        this.inc(value());
      },
    });
  }
}

/**
 * Of prom-client's default metrics the ones that cost nothing until asked: observing the garbage collection and the event
 * loop's delay cost half the latency of a relayed call and more memory than the relay itself.
 */
export function addProcessMetrics(registry: Registry): void {
  addGauges(registry, [
    ['process_resident_memory_bytes', 'Resident memory.', () => process.memoryUsage.rss()],
    ['process_open_fds', 'Open file descriptors.', () => readdirSync('/proc/self/fd').length],
    ['process_start_time_seconds', 'Start of the process, Unix time.', () => performance.timeOrigin / 1000],
  ]);
  const cpuSeconds = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  };
  addTotals(registry, [['process_cpu_seconds_total', 'CPU time, user and system.', cpuSeconds]]);
}
