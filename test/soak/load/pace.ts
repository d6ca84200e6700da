import { setTimeout as sleep } from 'node:timers/promises';

/** Runs a task again and again until `signal` aborts, beginning each `everyMs`, or later when the last took longer. */
export async function repeat(everyMs: number, signal: AbortSignal, task: () => Promise<unknown>): Promise<void> {
  while (!signal.aborted) {
    const startedAt = performance.now();
    await task();
    await pause(everyMs - (performance.now() - startedAt), signal);
  }
}

/** Sleeps, or less when `signal` aborts. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) await sleep(ms, undefined, { signal }).catch(() => undefined);
}
