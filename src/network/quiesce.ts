import { setTimeout as sleep } from 'node:timers/promises';
import { linesOf, textOf } from '../check/proc/read.ts';
import { parseTable, type SocketRow } from '../check/proc/sockets.ts';
import { GantryError } from '../errors.ts';

/** Nobody waits longer, whatever is asked for. */
export const MOST_MS = 60_000;
const STEP_MS = 2;
/**
 * So many looks in a row have to agree. One alone falls between two packets of one exchange, and two into the moment that
 * an answer takes; three are 4 ms or more without a packet, and still fit into the 10 ms that are left of a pause of 50 by
 * a client that acknowledges an answer, as Linux does, 40 ms after it has it.
 */
const QUIET_LOOKS = 3;

/** What one look at a pod's network has seen. */
export interface Look {
  /** Packets that have come in by the pod's interface since it was made. */
  readonly received: number;
  /** Connections with requests that are not read, or with answers that are not acknowledged; undefined: not counted. */
  readonly waiting: number | undefined;
}

/** How the wait has ended. */
export interface Quiesced {
  readonly quiet: boolean;
  readonly waitedMs: number;
  /** Packets that came in between the last two looks. */
  readonly packets: number;
  /** Connections that had data waiting at the last look. */
  readonly waiting: number;
}

/**
 * Waits for a moment in which nobody outside the pod is in the middle of a request: whatever the freeze meets then was
 * not asked for yet. Never more than a wait: a pod that is not quiet within the limit moves all the same, with what is in
 * its queues. Reads /proc alone; no program is started.
 *
 * @param pid of a process in the pod's network namespace
 * @param limitMs at most {@link MOST_MS}
 * Errors: CANCELLED.
 */
export async function quiesce(pid: number, limitMs: number, signal: AbortSignal): Promise<Quiesced> {
  const began = performance.now();
  const limit = Math.min(limitMs, MOST_MS);
  let looks: Look[] = [];
  try {
    for (;;) {
      signal.throwIfAborted();
      const lookedAt = performance.now();
      const isLast = lookedAt - began >= limit;
      looks = [...looks.slice(1 - QUIET_LOOKS), await lookAt(pid, isLast ? undefined : looks.at(-1))];
      const quiet = isQuiet(looks);
      const now = performance.now();
      if (quiet || isLast) return { quiet, waitedMs: now - began, ...lastOf(looks) };
      await sleep(Math.max(0, Math.min(lookedAt + STEP_MS, began + limit) - now), undefined, { signal });
    }
  } catch (error) {
    throw GantryError.from(error);
  }
}

/** Pure: no packet came in between any two of the last looks, and none of them found a queue that is not empty. */
export function isQuiet(looks: readonly Look[]): boolean {
  const last = looks.slice(-QUIET_LOOKS);
  const [first] = last;
  return (
    last.length === QUIET_LOOKS &&
    last.every(({ received, waiting = 0 }) => waiting === 0 && received === first?.received)
  );
}

function lastOf(looks: readonly Look[]): Pick<Quiesced, 'packets' | 'waiting'> {
  const [last, before = last] = looks.slice(-2).reverse();
  return { packets: (last?.received ?? 0) - (before?.received ?? 0), waiting: last?.waiting ?? 0 };
}

/**
 * The counter first: what comes in while the tables are read is then seen by the next look. The tables take a millisecond
 * each, and are left out when a packet has come in since the look before: that is not quiet, whatever they say.
 */
async function lookAt(pid: number, before: Look | undefined, device = 'eth0'): Promise<Look> {
  const received = receivedBy(await textOf(`/proc/${pid}/net/dev`), device);
  if (before !== undefined && before.received !== received) return { received, waiting: undefined };
  const tables = ['tcp', 'tcp6'].map(async (table) => {
    const lines = (await linesOf(`/proc/${pid}/net/${table}`)).slice(1);
    return parseTable(table, lines.filter(isNotable));
  });
  return { received, waiting: (await Promise.all(tables)).flat().filter(isWaiting).length };
}

/** Pure: the second column of a device's line (proc_pid_net(5)); 0 for one that is not there. */
export function receivedBy(text: string, device: string): number {
  const line = text.split('\n').find((candidate) => candidate.trimStart().startsWith(`${device}:`)) ?? '';
  return Number(line.split(':')[1]?.trim().split(/\s+/)[1] ?? 0);
}

/** Pure: a line of /proc/net/tcp that is worth a closer look; of a thousand idle connections none is. */
export function isNotable(line: string): boolean {
  return !line.includes(' 00000000:00000000 ') || / (01|03|08) \S+ \S+ \S+ +\d+ +\d+ 0 /.test(line);
}

/**
 * Pure: a connection from outside with something in its queues, or one that nobody has accepted. The pod's own, over
 * loopback, do not count: both ends are frozen together and restored together, and a queue between them may well be
 * what the pod looks like at rest.
 */
export function isWaiting({ state, local, remote, inode, queued, unacknowledged }: SocketRow): boolean {
  if (isLoopback(local, remote)) return false;
  switch (state) {
    case 'LISTEN':
    case 'TIME_WAIT':
      // What is not accepted has a row of its own.
      return false;
    case 'SYN_RECV':
      return true;
    case 'ESTABLISHED':
      return inode === 0 || queued > 0 || unacknowledged > 0;
    case 'CLOSE_WAIT':
      // The end of what the client sends is counted as one byte, and is no request.
      return inode === 0 || queued > 1 || unacknowledged > 0;
    default:
      return unacknowledged > 0;
  }
}

function isLoopback(local: string, remote: string): boolean {
  const host = hostOf(remote);
  return host.startsWith('127.') || host === '[::1]' || host === hostOf(local);
}

function hostOf(address: string): string {
  return address.slice(0, address.lastIndexOf(':'));
}
