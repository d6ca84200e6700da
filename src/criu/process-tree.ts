import type { PstreeEntry } from '../gen/criu.ts';
import { badImage } from './cursor.ts';
import { fileOf } from './kinds.ts';
import type { Process } from './process.ts';

const FILE = fileOf('PSTREE');

/**
 * Errors: BAD_ARCHIVE, when a number is told twice, be it a process's or a thread's: every one is read once, however
 * often a hostile image names it.
 */
export function checkNumbers(entries: readonly PstreeEntry[]): void {
  const seen = new Set<number>();
  for (const { pid, threads } of entries) {
    // A process that has ended has no threads, any other has its own number among them.
    for (const number of threads.includes(pid) ? threads : [pid, ...threads]) {
      if (seen.has(number)) throw badImage(FILE, `${number} is the number of two processes or threads`);
      seen.add(number);
    }
  }
}

/** Roots of the tree (one, as CRIU writes it), each with its children. Errors: BAD_ARCHIVE, when it is no tree. */
export function treeOf(processes: readonly Omit<Process, 'children'>[]): Process[] {
  const roots: Process[] = [];
  const byPid = new Map(processes.map((one) => [one.pid, { ...one, children: [] as Process[] }]));
  for (const one of byPid.values()) (byPid.get(one.ppid)?.children ?? roots).push(one);
  const reached = flatten(roots).length;
  if (reached < byPid.size) throw badImage(FILE, `${byPid.size - reached} processes are their own ancestors`);
  return roots;
}

/** Every process of a tree, parents before their children. */
export function flatten(roots: readonly Process[]): Process[] {
  const found: Process[] = [];
  const waiting = [...roots].reverse();
  for (let one = waiting.pop(); one !== undefined; one = waiting.pop()) {
    found.push(one);
    for (const child of one.children.toReversed()) waiting.push(child);
  }
  return found;
}
