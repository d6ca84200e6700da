import { cpus, release, totalmem } from 'node:os';
import type { Buffered } from './buffer.ts';
import type { Growth } from './growth.ts';
import type { Latency } from './latency.ts';
import type { Throughput } from './throughput.ts';
import type { WayName } from './ways.ts';

type PerWay<T> = Partial<Record<WayName, T>>;

export interface Results {
  readonly date: string;
  readonly machine: string;
  readonly runtime: string;
  latency: Record<string, { bytes: number; ways: PerWay<Latency> }>;
  throughput: Record<string, PerWay<Throughput>>;
  /** By how many statuses a second. */
  relistCpuPercent: Record<string, PerWay<number>>;
  startMiB: PerWay<number>;
  growth: Growth[];
  buffered: PerWay<Buffered[]>;
}

export function emptyResults(runtime: string): Results {
  const machine = `${cpus().length} cores (${cpus()[0]?.model.trim() ?? 'unknown'}), ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node ${process.version}`;
  const nothing = { latency: {}, throughput: {}, relistCpuPercent: {}, startMiB: {}, growth: [], buffered: {} };
  return { date: new Date().toISOString(), machine, runtime, ...nothing };
}

const LABELS: Record<WayName, string> = {
  direct: 'direct socket',
  splice: 'splice of two sockets',
  pipe: 'node:http2, piped',
  relay: 'gantry proxy',
  looking: 'gantry, intercepted',
};

/** The same as tables. */
export function formatResults(results: Results): string {
  const parts = [`${results.date.slice(0, 10)}, ${results.machine}\nruntime: ${results.runtime}`];
  for (const [name, { bytes, ways }] of Object.entries(results.latency)) {
    const direct = ways.direct?.p50Ms ?? Number.NaN;
    const directP99 = ways.direct?.p99Ms ?? Number.NaN;
    parts.push(
      table(
        `${name}, answer of ${bytes} bytes, one call at a time`,
        ['p50 ms', 'added', 'p99 ms', 'added'],
        ways,
        ({ p50Ms, p99Ms }) => [ms(p50Ms), signed(p50Ms - direct), ms(p99Ms), signed(p99Ms - directP99)],
      ),
    );
  }
  for (const [name, ways] of Object.entries(results.throughput)) {
    const direct = ways.direct?.callsPerSecond ?? Number.NaN;
    parts.push(
      table(`${name}, 16 calls at a time`, ['calls/s', 'of direct', 'CPU µs/call'], ways, (one) => [
        one.callsPerSecond.toFixed(0),
        `${((100 * one.callsPerSecond) / direct).toFixed(0)} %`,
        one.cpuMicros?.toFixed(1) ?? '',
      ]),
    );
  }
  for (const [statuses, ways] of Object.entries(results.relistCpuPercent)) {
    const title = `Each second both lists and the status of ${statuses} pods`;
    parts.push(table(title, ['CPU, of one core'], ways, (one) => [`${one.toFixed(2)} %`]));
  }
  if (Object.keys(results.startMiB).length > 0) {
    parts.push(table('Resident memory at start', ['MiB'], results.startMiB, (one) => [one.toFixed(0)]));
  }
  if (results.growth.length > 0) {
    const rows = results.growth.map(({ calls, residentMiB }) => [String(calls), residentMiB.toFixed(1)]);
    parts.push(`Resident memory of gantry proxy\n${columns([['calls', 'MiB'], ...rows])}`);
  }
  for (const what of new Set(Object.values(results.buffered).flatMap((all) => all.map((one) => one.what)))) {
    const ways = Object.fromEntries(
      Object.entries(results.buffered).map(([name, all]) => [name, all.find((one) => one.what === what)]),
    ) as PerWay<Buffered>;
    parts.push(
      table(`${what}, read slowly`, ['most under way MiB', 'memory peak MiB'], ways, (one) => [
        mib(one.mostUnderWay),
        `+${mib(one.peakGrowth)}`,
      ]),
    );
  }
  return parts.join('\n\n');
}

function table<T>(title: string, heads: readonly string[], ways: PerWay<T>, cells: (one: T) => string[]): string {
  const rows = Object.entries(ways).map(([name, one]) => [LABELS[name as WayName], ...cells(one as T)]);
  return `${title}\n${columns([['', ...heads], ...rows])}`;
}

function columns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows
    .map((row) =>
      row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
    )
    .map((line) => `  ${line.trimEnd()}`)
    .join('\n');
}

const ms = (value: number): string => value.toFixed(3);
const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);
const signed = (value: number): string => `${value < 0 ? '' : '+'}${value.toFixed(3)}`;
