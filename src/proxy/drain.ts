import type { Server, Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { type StatusCode, status } from '../grpc-status.ts';
import type { Connection } from './h2/connection.ts';

const FLUSH_MS = 100;

/** A call that has not been answered. */
export interface InFlight {
  /** It ends only when somebody ends it: an event stream. */
  readonly endless: boolean;
  /** It is on its way to the runtime or back, to read something that is there. */
  readonly reads: boolean;
  /** Likewise, to run something inside a container and tell its end. */
  readonly runs: boolean;
  /** Ends it with a status of the relay's own, in whatever form the client can still take it. */
  fail(code: StatusCode, message: string): void;
}

/** A client's connection. */
export interface Accepted {
  readonly socket: Socket;
  readonly connection: Connection;
}

/**
 * Ends a server in order: no new connections, GOAWAY on those that are there, time for the calls in flight, a status
 * for those that remain, and only then the sockets.
 *
 * @returns how many calls were cut off
 */
export async function drain(
  server: Server,
  calls: ReadonlySet<InFlight>,
  accepted: ReadonlySet<Accepted>,
  timeoutMs: number,
): Promise<number> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  for (const { connection } of accepted) connection.close();
  // Nobody waits for these: a successor cannot take over the socket before this process has gone.
  for (const call of calls) if (call.endless) call.fail(status.UNAVAILABLE, 'gantry proxy is stopping');
  // A connection closes when its client has read the GOAWAY and its calls have ended: until then calls may still come.
  await Promise.race([closed, delay(timeoutMs, undefined, { ref: false })]);
  const cut = calls.size;
  for (const call of calls)
    call.fail(status.UNAVAILABLE, 'gantry proxy is stopping; the call may have been carried out or not');
  // A client that got GOAWAY closes its connection; one that does not has had its answers by now.
  await Promise.race([closed, delay(FLUSH_MS)]);
  for (const { socket } of accepted) socket.destroy();
  await closed;
  return cut;
}

const LOOK_MS = 2;
// What kubelet gives a probe; what runs for longer is not waited for.
const RUNS_LIMIT_MS = 2000;

/** Resolves when those of the calls that read have ended. Rejects with the signal's reason. */
export function readsOver(calls: ReadonlySet<InFlight>, signal: AbortSignal): Promise<void> {
  return over(calls, ({ reads }) => reads, signal);
}

/** Resolves when those of the calls that run something inside a container have ended, or have had time to. */
export function runsOver(calls: ReadonlySet<InFlight>): Promise<void> {
  return over(calls, ({ runs }) => runs, AbortSignal.timeout(RUNS_LIMIT_MS)).catch(() => undefined);
}

async function over(
  calls: ReadonlySet<InFlight>,
  isMeant: (call: InFlight) => boolean,
  signal: AbortSignal,
): Promise<void> {
  const begun = [...calls].filter(isMeant);
  while (begun.some((call) => calls.has(call))) await delay(LOOK_MS, undefined, { signal });
}
