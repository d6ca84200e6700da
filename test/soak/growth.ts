import type { Sample } from './samples.ts';

const MIB = 1024 * 1024;

/** The rule by which the steady relay's memory is judged. */
export const MEMORY_RULE = {
  /** V8 takes memory as it likes at first. */
  warmUpPart: 1 / 3,
  mostWarmUpMs: 180_000,
  /** Of the time after the warm-up: at its beginning and at its end. */
  windowPart: 1 / 4,
  leastWindowMs: 30_000,
  allowedPart: 0.1,
  allowedBytes: 8 * MIB,
} as const;

export interface MemoryFigures {
  readonly startBytes: number;
  readonly warmBytes: number;
  readonly endBytes: number;
  readonly maxBytes: number;
  readonly allowedBytes: number;
  /** Undefined when the soak was too short to tell. */
  readonly grows: boolean | undefined;
}

/** Whether memory has grown: the median of the last window is above that of the first one after the warm-up. */
export function judgeMemory(samples: readonly Sample[]): MemoryFigures | undefined {
  const first = samples[0];
  const last = samples.at(-1);
  if (first === undefined || last === undefined) return undefined;
  const lengthMs = last.at - first.at;
  const warmAt = first.at + Math.min(lengthMs * MEMORY_RULE.warmUpPart, MEMORY_RULE.mostWarmUpMs);
  const windowMs = (last.at - warmAt) * MEMORY_RULE.windowPart;
  const within = (from: number, to: number) =>
    median(samples.filter(({ at }) => at >= from && at <= to).map(({ residentBytes }) => residentBytes));
  const warmBytes = within(warmAt, warmAt + windowMs);
  const endBytes = within(last.at - windowMs, last.at);
  const allowedBytes = Math.max(MEMORY_RULE.allowedBytes, warmBytes * MEMORY_RULE.allowedPart);
  return {
    startBytes: first.residentBytes,
    warmBytes,
    endBytes,
    maxBytes: samples.reduce((most, { residentBytes }) => Math.max(most, residentBytes), 0),
    allowedBytes,
    grows: windowMs < MEMORY_RULE.leastWindowMs ? undefined : endBytes - warmBytes > allowedBytes,
  };
}

export function describeMemoryRule(): string {
  const { warmUpPart, mostWarmUpMs, windowPart, leastWindowMs, allowedPart, allowedBytes } = MEMORY_RULE;
  return (
    `after a warm-up (${percent(warmUpPart)} of the time, at most ${mostWarmUpMs / 1000} s), the median of the last ` +
    `${percent(windowPart)} is above that of the first by at most ${percent(allowedPart)} or ${allowedBytes / MIB} MiB, ` +
    `whichever is more; not judged when these windows are shorter than ${leastWindowMs / 1000} s`
  );
}

/** What a relay holds while nobody calls. */
export interface QuietMoment {
  readonly at: number;
  readonly pid: number;
  readonly descriptors: number;
  readonly streams: number;
  readonly connections: number;
}

/** How a quiet moment differs from the first one, which sets the measure; undefined when it does not. */
export function judgeQuiet(moment: QuietMoment, first: QuietMoment): string | undefined {
  const differences = (['descriptors', 'streams', 'connections'] as const)
    .filter((name) => moment[name] !== first[name])
    .map((name) => `${moment[name]} ${name}, ${first[name]} at first`);
  return differences.length === 0 ? undefined : differences.join('; ');
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const upper = sorted[Math.floor(middle)] ?? 0;
  return Number.isInteger(middle) ? ((sorted[middle - 1] ?? upper) + upper) / 2 : upper;
}

function percent(part: number): string {
  return `${Math.round(part * 100)} %`;
}
