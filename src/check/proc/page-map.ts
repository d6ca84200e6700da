import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

/** Of every page table entry in /proc/PID/pagemap (admin-guide/mm/pagemap.rst of Linux). */
export const PRESENT = 1n << 63n;
export const SOFT_DIRTY = 1n << 55n;
/** Of a file, or of shared memory. */
export const OF_FILE = 1n << 61n;

export const PAGE = 4096;
/** Pages that a part of a page map tells of: 2 MiB of memory. */
export const PART_PAGES = 512;
const ENTRY = 8;

/** Whether this kernel marks what was written (CONFIG_MEM_SOFT_DIRTY): new mappings always are, where it does. */
export function hasSoftDirty(): boolean {
  const [line = ''] = readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((one) => one.includes('[stack]'));
  const [from = 0, to = 0] = (line.split(' ')[0] ?? '').split('-').map((text) => Number.parseInt(text, 16));
  const map = openSync('/proc/self/pagemap', 'r');
  try {
    return countOf(readMap(map, from, (to - from) / PAGE), SOFT_DIRTY) > 0;
  } finally {
    closeSync(map);
  }
}

/** The entries of some pages; of a process that has ended, that nothing is present. */
export function readMap(map: number, address: number, pages: number): BigUint64Array {
  const entries = new BigUint64Array(pages);
  try {
    readSync(map, new Uint8Array(entries.buffer), 0, pages * ENTRY, (address / PAGE) * ENTRY);
  } catch {
    // Zeroes say so.
  }
  return entries;
}

export function countOf(entries: BigUint64Array, bits: bigint): number {
  return entries.reduce((count, entry) => ((entry & bits) === bits ? count + 1 : count), 0);
}

/** Undefined for a process that has ended. */
export function openQuietly(path: string): number | undefined {
  try {
    return openSync(path, 'r');
  } catch {
    return undefined;
  }
}
