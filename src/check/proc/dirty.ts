import { hash } from 'node:crypto';
import { closeSync, readSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { setImmediate as breathe, setTimeout as sleep } from 'node:timers/promises';
import type { Area } from './memory.ts';
import { countOf, hasSoftDirty, openQuietly, PAGE, PART_PAGES, PRESENT, readMap, SOFT_DIRTY } from './page-map.ts';
import { choose } from './sample.ts';

/** 64 MiB of a container are looked at; hashing them twice takes some 0.2 s of one core. */
const SAMPLED_PAGES = 16_384;
/** So many pages are read before others get their turn: it is the agent's one thread. */
const TURN = 256;

export interface DirtyFigures {
  readonly bytesPerSecond: number;
  readonly method: 'soft-dirty' | 'sampled' | 'none';
  /** That were looked at. */
  readonly pages: number;
  readonly windowMs: number;
}

/**
 * How much memory is written, without stopping or tracing anybody: pages that were written several times in the window
 * count once, as for a copy in rounds.
 *
 * @param keepsMarks the kernel's marks are not reset: a checkpoint to come counts on them
 */
export async function dirtyRate(
  areas: readonly Area[],
  windowMs: number,
  signal: AbortSignal,
  keepsMarks: boolean,
): Promise<DirtyFigures> {
  const writable = areas.filter(
    ({ writable, bytes, kind, isOnDemand }) =>
      writable && !isOnDemand && bytes > 0 && kind !== 'file' && kind !== 'huge',
  );
  if (windowMs <= 0 || writable.length === 0) {
    if (windowMs > 0) await sleep(windowMs, undefined, { signal });
    return { bytesPerSecond: 0, method: 'none', pages: 0, windowMs };
  }
  return hasSoftDirty() && !keepsMarks ? bySoftDirty(writable, windowMs, signal) : bySample(writable, windowMs, signal);
}

async function bySoftDirty(areas: readonly Area[], windowMs: number, signal: AbortSignal): Promise<DirtyFigures> {
  const began = performance.now();
  for (const pid of new Set(areas.map((area) => area.pid)))
    await writeFile(`/proc/${pid}/clear_refs`, '4').catch(() => undefined);
  await sleep(windowMs, undefined, { signal });
  const tookMs = performance.now() - began;
  let [dirty, pages, parts] = [0, 0, 0];
  for (const area of areas) {
    const map = openQuietly(`/proc/${area.pid}/pagemap`);
    if (map === undefined) continue;
    try {
      for (let at = area.start; at < area.end; at += PART_PAGES * PAGE) {
        const part = readMap(map, at, Math.min(PART_PAGES, (area.end - at) / PAGE));
        dirty += countOf(part, PRESENT | SOFT_DIRTY);
        pages += countOf(part, PRESENT);
        if (++parts % TURN === 0) await breathe();
        signal.throwIfAborted();
      }
    } finally {
      closeSync(map);
    }
  }
  return { bytesPerSecond: (dirty * PAGE * 1000) / tookMs, method: 'soft-dirty', pages, windowMs: tookMs };
}

interface Sample {
  readonly pid: number;
  readonly address: number;
  readonly hash: string;
}

async function bySample(areas: readonly Area[], windowMs: number, signal: AbortSignal): Promise<DirtyFigures> {
  const totalBytes = areas.reduce((sum, { bytes }) => sum + bytes, 0);
  const began = performance.now();
  const before = await takeSamples(areas, totalBytes, signal);
  await sleep(windowMs, undefined, { signal });
  const betweenMs = performance.now() - began;
  let changed = 0;
  await reading(before, signal, ({ hash: old }, now) => {
    if (now !== old) changed += 1;
  });
  return {
    ...estimate(changed, before.length, totalBytes, betweenMs),
    method: 'sampled',
    pages: before.length,
    windowMs: betweenMs,
  };
}

/** Pure: what the pages that were looked at say of all. */
export function estimate(
  changed: number,
  looked: number,
  totalBytes: number,
  betweenMs: number,
): { bytesPerSecond: number } {
  if (looked === 0 || betweenMs <= 0) return { bytesPerSecond: 0 };
  return { bytesPerSecond: ((changed / looked) * totalBytes * 1000) / betweenMs };
}

async function takeSamples(areas: readonly Area[], totalBytes: number, signal: AbortSignal): Promise<Sample[]> {
  const chosen: { pid: number; address: number; hash: string }[] = [];
  for (const area of areas) {
    const map = openQuietly(`/proc/${area.pid}/pagemap`);
    if (map === undefined) continue;
    try {
      for (const address of choose(area, Math.ceil((SAMPLED_PAGES * area.bytes) / totalBytes), map)) {
        chosen.push({ pid: area.pid, address, hash: '' });
      }
    } finally {
      closeSync(map);
    }
    await breathe();
    signal.throwIfAborted();
  }
  const samples: Sample[] = [];
  await reading(chosen, signal, (place, now) => {
    if (now !== '') samples.push({ ...place, hash: now });
  });
  return samples;
}

async function reading<T extends { pid: number; address: number }>(
  places: readonly T[],
  signal: AbortSignal,
  take: (place: T, hash: string) => void,
): Promise<void> {
  const page = Buffer.allocUnsafe(PAGE);
  let [open, pid] = [undefined as number | undefined, 0];
  const close = () => open !== undefined && closeSync(open);
  try {
    for (const [at, place] of places.entries()) {
      if (place.pid !== pid) {
        close();
        pid = place.pid;
        open = openQuietly(`/proc/${pid}/mem`);
      }
      take(place, open === undefined ? '' : hashAt(open, place.address, page));
      if (at % TURN === TURN - 1) await breathe();
      signal.throwIfAborted();
    }
  } finally {
    close();
    page.fill(0);
  }
}

/** "" for what cannot be read any more. */
function hashAt(memory: number, address: number, page: Buffer): string {
  try {
    return readSync(memory, page, 0, PAGE, address) === PAGE ? hash('sha1', page, 'base64') : '';
  } catch {
    return '';
  }
}
