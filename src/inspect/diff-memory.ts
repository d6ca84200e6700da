import type { CheckpointImages } from '../criu/checkpoint.ts';
import { ImageSet } from '../criu/image-set.ts';
import type { Mapping } from '../criu/memory.ts';
import { type PageMap, type PageRun, readPageMap, readRun } from '../criu/page-map.ts';
import type { Process } from '../criu/process.ts';
import type { AddressRange } from '../criu/read-memory.ts';
import type { ImageSource } from '../criu/source.ts';
import { GantryError } from '../errors.ts';
import { hex } from './inspection.ts';

/** Pages of one mapping, or of one segment that processes share. */
export interface PageCounts {
  /** In the second checkpoint and not in the first: written or mapped in between. */
  added: number;
  /** In the first and not in the second: given back, or the same as in the file again. */
  removed: number;
  changed: number;
  same: number;
  /** Not in one of both, but elsewhere: in an earlier dump that is not at hand, or still with the process. */
  unknown: number;
}

export interface MappingDifference extends PageCounts {
  /** "0x7ffd…"; of a segment its number. */
  readonly start: string;
  readonly kind: Mapping['kind'];
  readonly protection: string;
  readonly path?: string;
}

export interface MemoryDifference extends PageCounts {
  /** In bytes. */
  readonly pageSize: number;
  readonly mappings: readonly MappingDifference[];
}

interface Side {
  readonly source: ImageSource;
  readonly map: PageMap | undefined;
  readonly mappings: readonly Mapping[];
}

const CHUNK_BYTES = 1024 * 1024;
interface Comparison {
  /** In bytes. */
  readonly pageSize: number;
  readonly signal: AbortSignal | undefined;
}

const NONE: PageCounts = { added: 0, removed: 0, changed: 0, same: 0, unknown: 0 };

/**
 * Compares the private memory of a process page by page, a mebibyte of each at a time. undefined when it has none.
 * Errors: BAD_ARCHIVE; UNSUPPORTED, for pages of two sizes.
 */
export async function diffMemory(
  one: { readonly source: ImageSource; readonly process: Process },
  other: { readonly source: ImageSource; readonly process: Process },
  signal?: AbortSignal,
): Promise<MemoryDifference | undefined> {
  const { memory: before } = one.process;
  const { memory: after } = other.process;
  if (before === undefined || after === undefined) return undefined;
  checkPageSizes(before.pageSize, after.pageSize);
  const sides = [
    { source: one.source, map: before.pageMap, mappings: before.mappings },
    { source: other.source, map: after.pageMap, mappings: after.mappings },
  ] as const;
  return compare(sides, { pageSize: before.pageSize, signal });
}

/** The same of the segments that processes share, by their numbers. */
export async function diffShared(
  one: { readonly source: ImageSource; readonly images: CheckpointImages },
  other: { readonly source: ImageSource; readonly images: CheckpointImages },
  pageSize: number,
  signal?: AbortSignal,
): Promise<MappingDifference[]> {
  const segments = new Set([...one.images.sharedMemory, ...other.images.sharedMemory].map(({ segment }) => segment));
  const sets = [await ImageSet.open(one.source), await ImageSet.open(other.source)] as const;
  const found: MappingDifference[] = [];
  for (const segment of segments) {
    const map = (images: ImageSet) => readPageMap(images, 'SHMEM_PAGEMAP', segment, pageSize);
    const sides = [
      { source: one.source, map: await map(sets[0]), mappings: [] },
      { source: other.source, map: await map(sets[1]), mappings: [] },
    ] as const;
    const { mappings: _, pageSize: __, ...counts } = await compare(sides, { pageSize, signal });
    found.push({ start: `segment ${segment}`, kind: 'shared', protection: '', ...counts });
  }
  return found;
}

async function compare(sides: readonly [Side, Side], comparison: Comparison): Promise<MemoryDifference> {
  const [before, after] = sides;
  const total = { ...NONE };
  const byMapping = new Map<string, MappingDifference>();
  const lists = [before.map?.runs ?? [], after.map?.runs ?? [], before.mappings, after.mappings] as const;
  for (const { range, within } of pieces(lists)) {
    comparison.signal?.throwIfAborted();
    const [runBefore, runAfter] = [within[0] as PageRun | undefined, within[1] as PageRun | undefined];
    if (runBefore === undefined && runAfter === undefined) continue;
    const counts = await countsOf(sides, [runBefore, runAfter], range, comparison);
    const mapping = (within[3] ?? within[2]) as Mapping | undefined;
    add(total, counts);
    add(differenceFor(byMapping, mapping, range), counts);
  }
  const mappings = [...byMapping.values()].filter(
    ({ added, removed, changed, unknown }) => added + removed + changed + unknown > 0,
  );
  return { pageSize: comparison.pageSize, ...total, mappings };
}

function differenceFor(all: Map<string, MappingDifference>, mapping: Mapping | undefined, { start }: AddressRange) {
  const key = mapping === undefined ? '' : `${mapping.start} ${mapping.kind} ${mapping.path ?? ''}`;
  let known = all.get(key);
  if (known === undefined) {
    const { kind = 'other', protection = '', path } = mapping ?? {};
    known = { start: hex(mapping?.start ?? start), kind, protection, ...(path === undefined ? {} : { path }), ...NONE };
    all.set(key, known);
  }
  return known;
}

async function countsOf(
  [before, after]: readonly [Side, Side],
  [one, other]: readonly [PageRun | undefined, PageRun | undefined],
  range: AddressRange,
  comparison: Comparison,
): Promise<PageCounts> {
  const pages = Number((range.end - range.start) / BigInt(comparison.pageSize));
  if (one?.where === 'present' && other?.where === 'present') {
    const changed = await changedPages([before, after], [one, other], range, comparison);
    return { ...NONE, changed, same: pages - changed };
  }
  const isElsewhere = [one, other].some((run) => run?.where === 'parent' || run?.where === 'lazy');
  if (isElsewhere) return { ...NONE, unknown: pages };
  if (one?.where === 'present') return { ...NONE, removed: pages };
  return other?.where === 'present' ? { ...NONE, added: pages } : NONE;
}

async function changedPages(
  [before, after]: readonly [Side, Side],
  [one, other]: readonly [PageRun, PageRun],
  { start, end }: AddressRange,
  { pageSize, signal }: Comparison,
): Promise<number> {
  let changed = 0;
  for (let from = start; from < end; from += BigInt(CHUNK_BYTES)) {
    signal?.throwIfAborted();
    const length = Math.min(Number(end - from), CHUNK_BYTES);
    const left = await bytesOf(before, one, from, length);
    const right = await bytesOf(after, other, from, length);
    if (left.equals(right)) continue;
    for (let at = 0; at < length; at += pageSize) {
      const to = Math.min(at + pageSize, length);
      if (left.compare(right, at, to, at, to) !== 0) changed++;
    }
  }
  return changed;
}

async function bytesOf({ source, map }: Side, run: PageRun, start: bigint, length: number): Promise<Buffer> {
  return map === undefined ? Buffer.alloc(0) : readRun(source, map, run, start, length);
}

interface Piece {
  readonly range: AddressRange;
  /** What of each list it lies in. */
  readonly within: readonly (AddressRange | undefined)[];
}

/**
 * Cuts addresses so that every piece lies wholly in or wholly out of each range of each list. The ranges of a list are in
 * order and do not overlap. What lies in no range is left out.
 */
function* pieces(lists: readonly (readonly AddressRange[])[]): Generator<Piece> {
  const indexes = lists.map(() => 0);
  let at = 0n;
  for (;;) {
    let end: bigint | undefined;
    const within = lists.map((list, which) => {
      let index = indexes[which] ?? 0;
      while ((list[index]?.end ?? at + 1n) <= at) index++;
      indexes[which] = index;
      const range = list[index];
      if (range === undefined) return undefined;
      const edge = range.start > at ? range.start : range.end;
      if (end === undefined || edge < end) end = edge;
      return range.start > at ? undefined : range;
    });
    if (end === undefined) return;
    if (within.some((range) => range !== undefined)) yield { range: { start: at, end }, within };
    at = end;
  }
}

function add(to: PageCounts, { added, removed, changed, same, unknown }: PageCounts): void {
  to.added += added;
  to.removed += removed;
  to.changed += changed;
  to.same += same;
  to.unknown += unknown;
}

function checkPageSizes(one: number, other: number): void {
  if (one === other) return;
  throw new GantryError('UNSUPPORTED', `one has pages of ${one} bytes, the other of ${other}: they cannot be compared`);
}
