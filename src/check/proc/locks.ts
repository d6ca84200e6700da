import { linesOf } from './read.ts';

/** A row of /proc/locks (proc_locks(5)). */
export interface Lock {
  /** FLOCK, POSIX, OFDLCK, LEASE. */
  readonly kind: string;
  readonly access: string;
  /** -1: of an open file description. */
  readonly pid: number;
  /** File system and inode, as the kernel prints them: "fe:01:1234". */
  readonly file: string;
  /** It waits for another one. */
  readonly waits: boolean;
}

export async function allLocks(): Promise<Lock[]> {
  return (await linesOf('/proc/locks')).flatMap((line) => parseLock(line) ?? []);
}

/** Pure; undefined for what is none. */
export function parseLock(line: string): Lock | undefined {
  const match = /^\d+: (->)?\s*(\S+)\s+\S+\s+(\S+)\s+(-?\d+) ([0-9a-f]+:[0-9a-f]+:\d+) /.exec(line);
  if (match === null) return undefined;
  const [, arrow, kind = '', access = '', pid, file = ''] = match;
  return { kind, access, pid: Number(pid), file, waits: arrow !== undefined };
}
