import { setTimeout as delay } from 'node:timers/promises';
import { messageOf } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Notify } from './notify.ts';

// After a probe that failed, the next must come soon enough to feed the watchdog in time.
const RETRIES_PER_INTERVAL = 10;

/** How often the watchdog wants to be fed, in milliseconds: half of what it waits (sd_watchdog_enabled(3)). */
export function watchdogIntervalMs(env = process.env, pid = process.pid): number | undefined {
  const { WATCHDOG_USEC, WATCHDOG_PID } = env;
  const usec = Number(WATCHDOG_USEC ?? 0);
  if (!(usec > 0) || (WATCHDOG_PID !== undefined && Number(WATCHDOG_PID) !== pid)) return undefined;
  return Math.max(1, Math.floor(usec / 2000));
}

/**
 * Feeds the watchdog until `signal`, each time only after `probe` has shown that the service really works. A loop that is
 * stuck, or a listener that no longer accepts, ends in a restart by the service manager.
 */
export async function feedWatchdog(options: {
  intervalMs: number;
  /** Rejects, or resolves with false, when the service does not work. */
  probe: (timeoutMs: number) => Promise<boolean>;
  notify: Notify;
  log: Log;
  signal: AbortSignal;
}): Promise<void> {
  const { intervalMs, probe, notify, log, signal } = options;
  let well = true;
  while (!signal.aborted) {
    const failure = await probe(intervalMs).then(
      (answered) => (answered ? undefined : 'no answer'),
      (error: unknown) => messageOf(error),
    );
    if (signal.aborted) return;
    if (failure === undefined) await notify('WATCHDOG=1');
    else if (well) log.error('self-probe-failed', { reason: failure });
    well = failure === undefined;
    await delay(well ? intervalMs : intervalMs / RETRIES_PER_INTERVAL, undefined, { signal }).catch(() => undefined);
  }
}
