import { badImage } from './cursor.ts';
import { max, min, type PageMap, type PageRun, readRun, type Whereabouts } from './page-map.ts';
import type { ImageSource } from './source.ts';

/** A range of a process's memory, from address to address. */
export interface AddressRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** The bytes of a range, or where they are instead. */
export type Memory = { readonly bytes: Buffer } | { readonly missing: Exclude<Whereabouts, 'present'> };

/** What is read at once at most: the kernel lets arguments and environment have 6 MiB. */
const MAX_BYTES = 16 * 1024 * 1024;

/**
 * Reads a range of memory from the pages image.
 * Errors: BAD_ARCHIVE, when the range is larger than 16 MiB or the pages image is shorter than its map says.
 */
export async function readMemory(source: ImageSource, map: PageMap, range: AddressRange): Promise<Memory> {
  if (range.end - range.start > MAX_BYTES)
    throw badImage(map.pages, `the range from 0x${range.start.toString(16)} is larger than ${MAX_BYTES} bytes`);
  const parts: Buffer[] = [];
  let at = range.start;
  for (const run of runsWithin(map, range)) {
    if (run.start > at) return { missing: 'absent' };
    if (run.where !== 'present') return { missing: run.where };
    const length = Number(min(run.end, range.end) - at);
    parts.push(await readRun(source, map, run, at, length));
    at += BigInt(length);
  }
  return at < range.end ? { missing: 'absent' } : { bytes: Buffer.concat(parts) };
}

function runsWithin({ runs }: PageMap, { start, end }: AddressRange): readonly PageRun[] {
  return runs.filter((run) => max(run.start, start) < min(run.end, end));
}
