import type { Twin } from './twin.ts';

/**
 * A decoded message with placeholders for what may differ between two answers, and lists of no order sorted. Every field
 * stays, and so does its type.
 */
export function normal(message: unknown, twin: Twin | undefined): unknown {
  return normalField(message, '', twin);
}

/** The text with placeholders for what is a twin's own or made up by the runtime. */
export function text(value: string, twin: Twin | undefined): string {
  if (twin === undefined) return value;
  return RANDOM.reduce((result, [pattern, placeholder]) => result.replace(pattern, placeholder), twin.anonymous(value));
}

/** As it stands in failures, addresses and the JSON of verbose answers. */
const RANDOM: readonly (readonly [RegExp, string])[] = [
  [/\bcni-[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}/g, '<network namespace>'],
  [/\bveth[\da-f]{8}\b/g, '<interface>'],
  [/\b[\da-f]{2}(:[\da-f]{2}){5}\b/g, '<hardware address>'],
  [/\b(sandbox|exec) "[\da-f]{64}"/g, '$1 "<unknown>"'],
  [/"pid":[1-9]\d*/g, '"pid":<process>'],
  [/\/proc\/\d+\//g, '/proc/<process>/'],
  [/^(http:\/\/127\.0\.0\.1:\d+\/(?:exec|attach|portforward)\/)[\w-]{8}$/g, '$1<token>'],
];

/** Nanoseconds that an object keeps: the twins have each their own. */
const KEPT_MOMENTS: ReadonlySet<string> = new Set(['createdAt', 'startedAt', 'finishedAt']);

/** Numbers, or messages of numbers, that are measured for each answer. */
const MEASURED: ReadonlySet<string> = new Set([
  'usageCoreNanoSeconds',
  'usageNanoCores',
  'workingSetBytes',
  'availableBytes',
  'usageBytes',
  'rssBytes',
  'pageFaults',
  'majorPageFaults',
  'swapUsageBytes',
  'swapAvailableBytes',
  'usedBytes',
  'inodesUsed',
  'rxBytes',
  'txBytes',
  'processCount',
  'psi',
]);

/** Lists in the order of a Go map. */
const UNORDERED: ReadonlySet<string> = new Set(['containers', 'containersStatuses', 'images', 'items', 'stats']);

function normalField(value: unknown, key: string, twin: Twin | undefined): unknown {
  if (MEASURED.has(key)) return measured(value);
  if (typeof value === 'string') return text(value, twin);
  if (typeof value === 'bigint') return isMoment(key, twin) && isRecent(value) ? '<a moment ago>' : value;
  if (value instanceof Uint8Array) return text(Buffer.from(value).toString('latin1'), twin);
  if (Array.isArray(value)) {
    const items = value.map((item) => normalField(item, key, twin));
    return UNORDERED.has(key) ? items.toSorted(byText) : items;
  }
  if (isMessage(value)) return mapFields(value, (item, name) => normalField(item, name, twin));
  return value;
}

function measured(value: unknown): unknown {
  return isMessage(value) ? mapFields(value, measured) : `<a ${typeof value}>`;
}

function isMoment(key: string, twin: Twin | undefined): boolean {
  return key === 'timestamp' || (twin !== undefined && KEPT_MOMENTS.has(key));
}

const TEN_MINUTES_MS = 600_000;

function isRecent(nanoseconds: bigint): boolean {
  return Math.abs(Date.now() - Number(nanoseconds / 1_000_000n)) < TEN_MINUTES_MS;
}

function isMessage(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

function mapFields(message: object, change: (value: unknown, name: string) => unknown): unknown {
  return Object.fromEntries(Object.entries(message).map(([name, value]) => [name, change(value, name)]));
}

function byText(a: unknown, b: unknown): number {
  return asText(a) < asText(b) ? -1 : 1;
}

/** Fields in an order of their own: that of a map is random. */
function asText(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) => {
    if (typeof item === 'bigint') return String(item);
    return isMessage(item) && !Array.isArray(item) ? Object.fromEntries(Object.entries(item).toSorted()) : item;
  });
}
