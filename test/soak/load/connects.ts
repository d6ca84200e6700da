import { once } from 'node:events';
import { connect } from 'node:net';
import { PLAN } from '../plan.ts';
import type { Target } from '../target.ts';
import { repeat } from './pace.ts';

/** Connects and hangs up, again and again: no attempt may ever be refused. */
export async function connectLoad({ relay, socket, journal, gate, signal }: Target): Promise<void> {
  await repeat(PLAN.connectEveryMs, signal, () =>
    gate.through(async () => {
      const startedAt = performance.now();
      const client = connect(socket);
      const error = await once(client, 'connect').then(
        () => undefined,
        (reason) => String(reason),
      );
      journal.connected(relay, performance.now() - startedAt, error);
      // A relay that is killed now breaks a connection that was not refused.
      client.on('error', () => undefined).destroy();
    }),
  );
}
