import type { MemoryFacts } from './proc/memory.ts';

/** What the predictions are computed from. */
export interface Load {
  readonly memory: MemoryFacts['bytes'];
  readonly filesBytes: number;
  readonly dirtyBytesPerSecond: number;
  readonly bandwidthMbit: number;
  readonly possible: {
    /** Whether live memory can be dumped at all. */
    readonly live: string;
    /** What is missing for each, "" for nothing. */
    readonly hybrid: string;
    readonly preCopy: string;
    readonly cold: string;
  };
}

export interface Predicted {
  readonly mode: 'hybrid' | 'pre-copy' | 'stop-and-copy' | 'cold';
  readonly possible: boolean;
  readonly why: string;
  readonly downtimeMs?: number;
  readonly totalMs: number;
  readonly bytes: number;
}

/** CRIU on one thread, dumping and restoring alike (measured, 2-core virtual machine). */
export const CRIU_BYTES_PER_SECOND = 1e9;
/** Scan of the page map and hand-over of every page by reference, inside CRIU's lazy dump (measured, 16 MiB–1 GiB). */
export const LAZY_MS_PER_GIB = 70;
/** Freeze, dump without memory, restore, release, with programs started beforehand (measured, ≤ 64 MiB). */
export const FIXED_MS = 60;
/** The same with everything started inside the interruption, as stop-and-copy does (README's demo, less its memory). */
export const STOP_FIXED_MS = 300;
/** Placeholder, connection and the files' first copy, which cost no downtime (README's demo). */
export const PREPARE_MS = 400;
/** Rounds of pre-copy end when so much is left, or after so many. */
const LAST_ROUND_BYTES = 16 * 1024 * 1024;
const ROUNDS = 8;

const GIB = 1024 ** 3;

/** Pure: downtime, total time and bytes for each mode. */
export function predict(load: Load): Predicted[] {
  const { live, hybrid, preCopy, cold } = load.possible;
  const entry = (
    mode: Predicted['mode'],
    why: string,
    figures: Omit<Predicted, 'mode' | 'possible' | 'why'>,
  ): Predicted => ({
    mode,
    possible: why === '',
    why,
    ...figures,
  });
  return [
    entry('hybrid', live || hybrid, ofHybrid(load)),
    entry('pre-copy', live || preCopy, ofPreCopy(load)),
    entry('stop-and-copy', live, ofStopAndCopy(load)),
    entry('cold', cold, ofCold(load)),
  ];
}

/** What they rest on, for whoever reads them. */
export function assumptions({ bandwidthMbit }: Pick<Load, 'bandwidthMbit'>): string[] {
  return [
    `the network carries ${bandwidthMbit} Mbit/s (--bandwidth)`,
    `CRIU dumps and restores ${CRIU_BYTES_PER_SECOND / 1e9} GB/s, one after the other (measured)`,
    `hybrid: ${FIXED_MS} ms, and ${LAZY_MS_PER_GIB} ms for each GiB that follows (measured)`,
    `stop-and-copy: ${STOP_FIXED_MS} ms besides the memory (measured)`,
    `${PREPARE_MS} ms of preparation and the first copy of the files cost no downtime`,
    'memory is written as fast as in the window; a cold start takes as long as the application does',
  ];
}

function ofStopAndCopy(load: Load) {
  const bytes = sum(load.memory);
  const downtimeMs = STOP_FIXED_MS + eagerMs(bytes, load);
  return { downtimeMs, totalMs: before(load) + downtimeMs, bytes: bytes + load.filesBytes };
}

function ofHybrid(load: Load) {
  const { lazy, ...rest } = load.memory;
  const eager = sum(rest);
  const seedMs = linkMs(lazy, load);
  // Pages that were written since they were sent are sent again, after the restore.
  const again = Math.min(lazy, (load.dirtyBytesPerSecond * seedMs) / 1000);
  const downtimeMs = FIXED_MS + (LAZY_MS_PER_GIB * lazy) / GIB + eagerMs(eager, load);
  return {
    downtimeMs,
    totalMs: before(load) + seedMs + downtimeMs + linkMs(again, load),
    bytes: lazy + again + eager + load.filesBytes,
  };
}

function ofPreCopy(load: Load) {
  const all = sum(load.memory);
  let [left, sent, tookMs] = [all, 0, 0];
  for (let round = 0; round < ROUNDS && left > LAST_ROUND_BYTES; round++) {
    const roundMs = Math.max(linkMs(left, load), (left * 1000) / CRIU_BYTES_PER_SECOND);
    sent += left;
    tookMs += roundMs;
    left = Math.min(all, (load.dirtyBytesPerSecond * roundMs) / 1000);
  }
  // All of it is restored from what has arrived, which takes CRIU as long as ever.
  const downtimeMs =
    FIXED_MS + (left * 1000) / CRIU_BYTES_PER_SECOND + linkMs(left, load) + (all * 1000) / CRIU_BYTES_PER_SECOND;
  return { downtimeMs, totalMs: before(load) + tookMs + downtimeMs, bytes: sent + left + load.filesBytes };
}

function ofCold(load: Load) {
  return { totalMs: before(load), bytes: load.filesBytes };
}

/** Dumped, sent and restored while nobody serves. */
function eagerMs(bytes: number, load: Pick<Load, 'bandwidthMbit'>): number {
  return (2 * bytes * 1000) / CRIU_BYTES_PER_SECOND + linkMs(bytes, load);
}

function linkMs(bytes: number, { bandwidthMbit }: Pick<Load, 'bandwidthMbit'>): number {
  return (bytes * 8) / (bandwidthMbit * 1000);
}

function before(load: Load): number {
  return PREPARE_MS + linkMs(load.filesBytes, load);
}

function sum(sizes: Readonly<Record<string, number>>): number {
  return Object.values(sizes).reduce((total, size) => total + size, 0);
}
