import type { Area } from './memory.ts';
import { OF_FILE, PAGE, PART_PAGES, PRESENT, readMap } from './page-map.ts';

/** Of one mapping: a reservation of terabytes has mostly parts with nothing in them. */
const PARTS_LIMIT = 4096;

/** Present pages of a mapping, from parts all over it. Pages that are not present are left alone: to read one makes it. */
export function choose({ start, end, kind }: Area, wanted: number, map: number): number[] {
  const pages = (end - start) / PAGE;
  const parts = Math.ceil(pages / PART_PAGES);
  const perPart = Math.min(PART_PAGES, Math.max(1, Math.ceil(wanted / Math.min(parts, 256))));
  // Of a private mapping of a file only the changed pages are dumped.
  const mask = kind === 'copied' ? PRESENT | OF_FILE : PRESENT;
  const found: number[] = [];
  for (let step = 0; step < Math.min(parts, PARTS_LIMIT) && found.length < wanted; step++) {
    const first = partAt(step, parts) * PART_PAGES;
    const entries = readMap(map, start + first * PAGE, Math.min(PART_PAGES, pages - first));
    const present = [...entries.keys()].filter((at) => ((entries[at] ?? 0n) & mask) === PRESENT);
    const stride = Math.max(1, present.length / Math.min(perPart, wanted - found.length));
    for (let at = Math.random() * stride; at < present.length; at += stride) {
      found.push(start + (first + (present[Math.floor(at)] ?? 0)) * PAGE);
    }
  }
  return found;
}

/** Pure: an order in which every part comes once, and the first ones lie far from each other. */
export function partAt(step: number, parts: number): number {
  let stride = Math.max(1, Math.round(parts * 0.618));
  while (greatestDivisor(stride, parts) !== 1) stride += 1;
  return Number((BigInt(step) * BigInt(stride)) % BigInt(parts));
}

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}
