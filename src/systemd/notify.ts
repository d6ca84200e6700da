import { messageOf } from '../errors.ts';
import type { Log } from '../log.ts';

const TIMEOUT_MS = 5000;

/** Tells the service manager how this service is: assignments of sd_notify(3), such as "READY=1". Never fails. */
export type Notify = (...assignments: string[]) => Promise<void>;

/**
 * Node can not send datagrams on unix sockets, so the program `systemd-notify` does; the unit needs NotifyAccess=all for
 * that. Without a service manager (NOTIFY_SOCKET) nothing is told; without the program that is logged, once.
 */
export function notifier(log: Log, env = process.env): Notify {
  const { NOTIFY_SOCKET } = env;
  if (NOTIFY_SOCKET === undefined || NOTIFY_SOCKET === '') return () => Promise.resolve();
  let reported = false;
  return async (...assignments) => {
    try {
      const { run } = await import('../runtime/program.ts');
      await run('systemd-notify', assignments, { env: { NOTIFY_SOCKET }, timeoutMs: TIMEOUT_MS });
    } catch (error) {
      if (!reported) log.warn('notify-failed', { assignments, reason: messageOf(error) });
      reported = true;
    }
  };
}
