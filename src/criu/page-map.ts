import type { PagemapEntry } from '../gen/criu.ts';
import { badImage } from './cursor.ts';
import type { ImageSet } from './image-set.ts';
import { fileOf } from './kinds.ts';
import type { ImageSource } from './source.ts';

/** Bits of pagemap_entry.flags: CRIU's criu/include/pagemap.h. */
export const PARENT = 1;
const LAZY = 2;
export const PRESENT = 4;

/**
 * Where the bytes of a range are: in a pages image, in that of an earlier dump which is not at hand (or does not have them), or
 * still with the process.
 */
export type Whereabouts = 'present' | 'parent' | 'lazy' | 'absent';

/** A run of pages that are in one place. */
export interface PageRun {
  /** Addresses of the process; offsets in a segment of shared memory. */
  readonly start: bigint;
  readonly end: bigint;
  readonly where: Whereabouts;
  /** Of its first byte in the pages image; only meaningful when it is present. */
  readonly offset: number;
  /** The pages image of an earlier dump that has it; undefined: the map's own. */
  readonly earlier?: PagesImage | undefined;
}

interface PagesImage {
  readonly source: ImageSource;
  /** Its file. */
  readonly pages: string;
}

export interface PageMap {
  /** The file with the bytes ("pages-1.img"). */
  readonly pages: string;
  /** In bytes. */
  readonly pageSize: number;
  /** In the order of the addresses, without overlaps. */
  readonly runs: readonly PageRun[];
  /** How many bytes of the pages image belong to it. */
  readonly bytes: number;
}

export type PageMapKind = 'PAGEMAP' | 'SHMEM_PAGEMAP';

/**
 * With a dump before at hand, what is there is found there, as CRIU does it (its criu/pagemap.c, read_parent_page).
 * undefined when the checkpoint does not have it: of a process that has ended, of memory nobody has written.
 */
export async function readPageMap(
  images: ImageSet,
  kind: PageMapKind,
  id: number | bigint | string,
  pageSize: number,
): Promise<PageMap | undefined> {
  const own = await readOwnPageMap(images, kind, id, pageSize);
  if (own === undefined || images.parent === undefined || !own.runs.some(({ where }) => where === 'parent')) return own;
  const before = await readPageMap(images.parent, kind, id, pageSize);
  return before === undefined ? own : { ...own, runs: inEarlier(own.runs, before, images.parent.source) };
}

/** Replaces each run that is in the dump before by the parts of which that is made up. Both are in the order of addresses. */
function inEarlier(runs: readonly PageRun[], before: PageMap, source: ImageSource): PageRun[] {
  const found: PageRun[] = [];
  let index = 0;
  for (const run of runs) {
    if (run.where !== 'parent') {
      found.push(run);
      continue;
    }
    let at = run.start;
    for (; at < run.end; index++) {
      const part = before.runs[index];
      if (part === undefined || part.start >= run.end) break;
      if (part.end <= at || part.where !== 'present') continue;
      const [start, end] = [max(part.start, at), min(part.end, run.end)];
      if (start > at) found.push({ ...run, start: at, end: start });
      const { earlier = { source, pages: before.pages } } = part;
      found.push({ start, end, where: 'present', offset: part.offset + Number(start - part.start), earlier });
      at = end;
      // It may reach into the next run.
      if (part.end >= run.end) break;
    }
    if (at < run.end) found.push({ ...run, start: at });
  }
  return found;
}

/** A part of a run that is present. Errors: BAD_ARCHIVE, when the pages image is shorter than its map says. */
export async function readRun(
  source: ImageSource,
  map: PageMap,
  run: PageRun,
  at: bigint,
  length: number,
): Promise<Buffer> {
  const { source: images, pages } = run.earlier ?? { source, pages: map.pages };
  const from = run.offset + Number(at - run.start);
  const bytes = await images.read(pages, from, length);
  if (bytes.length < length) throw badImage(pages, `it ends before the ${length} bytes its map puts here`, from);
  return bytes;
}

async function readOwnPageMap(
  images: ImageSet,
  kind: PageMapKind,
  id: number | bigint | string,
  pageSize: number,
): Promise<PageMap | undefined> {
  const open = await openPageMap(images, kind, id, pageSize);
  if (open === undefined) return undefined;
  const runs = [...open.runs];
  const last = runs.findLast(({ where }) => where === 'present');
  return { pages: open.pages, pageSize, runs, bytes: last === undefined ? 0 : last.offset + bytesOf(last) };
}

/** What one dump alone says, run by run, for who wants to hold none of them: fragmented memory has many. */
export async function openPageMap(
  images: ImageSet,
  kind: PageMapKind,
  id: number | bigint | string,
  pageSize: number,
): Promise<(Pick<PageMap, 'pages'> & { readonly runs: Iterable<PageRun> }) | undefined> {
  const image = await images.open(kind, id);
  if (image === undefined) return undefined;
  return { pages: pagesFile(image.head?.pages_id), runs: runsOf(fileOf(kind, id), image.entries, pageSize) };
}

function* runsOf(file: string, entries: Iterable<PagemapEntry>, pageSize: number): Generator<PageRun, void> {
  let offset = 0;
  let last = 0n;
  for (const entry of entries) {
    const run = runOf(entry, pageSize, offset);
    if (run.start < last) throw badImage(file, `pages at 0x${run.start.toString(16)} are told twice or out of order`);
    last = run.end;
    if (run.where === 'present') offset += bytesOf(run);
    if (!Number.isSafeInteger(offset)) throw badImage(file, 'it tells of more pages than any file holds');
    yield run;
  }
}

export function bytesOf({ start, end }: PageRun): number {
  return Number(end - start);
}

function runOf(entry: PagemapEntry, pageSize: number, offset: number): PageRun {
  // CRIU before 4.2 counts in 32 bits.
  const pages = entry.nr_pages ?? BigInt(entry.compat_nr_pages);
  return { start: entry.vaddr, end: entry.vaddr + pages * BigInt(pageSize), where: whereaboutsOf(entry), offset };
}

/** Old CRIU (2.x) has no flags, only a field that says "in the parent". */
function whereaboutsOf({ flags, in_parent }: PagemapEntry): Whereabouts {
  if (flags === undefined) return in_parent ? 'parent' : 'present';
  if (flags & PRESENT) return 'present';
  if (flags & PARENT) return 'parent';
  return flags & LAZY ? 'lazy' : 'absent';
}

function pagesFile(id = 0): string {
  return `pages-${id}.img`;
}

/** For each of some ranges, in order and without overlaps: how many bytes of it are in this checkpoint's own pages. */
export function presentBytes(
  map: PageMap,
  ranges: readonly { readonly start: bigint; readonly end: bigint }[],
): number[] {
  let index = 0;
  return ranges.map(({ start, end }) => {
    let bytes = 0n;
    for (let run = map.runs[index]; run !== undefined && run.start < end; run = map.runs[index]) {
      if (run.where === 'present' && run.earlier === undefined && run.end > start)
        bytes += min(run.end, end) - max(run.start, start);
      // It may reach into the next range.
      if (run.end > end) break;
      index++;
    }
    return Number(bytes);
  });
}

export function min(one: bigint, other: bigint): bigint {
  return one < other ? one : other;
}

export function max(one: bigint, other: bigint): bigint {
  return one > other ? one : other;
}
