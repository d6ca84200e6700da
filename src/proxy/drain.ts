import type { Http2Server } from 'node:http2';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import type { Call } from './call.ts';

const POLL_MS = 20;
const FLUSH_MS = 100;

/**
 * Ends a server in order: no new connections, GOAWAY on those that are there, time for the calls in flight, a status
 * for those that remain, and only then the sockets.
 *
 * @returns how many calls were cut off
 */
export async function drain(
  server: Http2Server,
  calls: ReadonlySet<Call>,
  sockets: ReadonlySet<Socket>,
  timeoutMs: number,
): Promise<number> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  const deadline = performance.now() + timeoutMs;
  while (calls.size > 0 && performance.now() < deadline) await delay(POLL_MS);
  const cut = calls.size;
  for (const call of calls)
    call.fail(status.UNAVAILABLE, 'gantry proxy is stopping; the call may have been carried out or not');
  // A client that got GOAWAY closes its connection; one that does not has had its answers by now.
  await Promise.race([closed, delay(FLUSH_MS)]);
  for (const socket of sockets) socket.destroy();
  await closed;
  return cut;
}
