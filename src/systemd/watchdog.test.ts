import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { logTo } from '../log.ts';
import { feedWatchdog, watchdogIntervalMs } from './watchdog.ts';

test('the interval is half of what the watchdog waits, if it waits for this process', () => {
  expect(watchdogIntervalMs({ WATCHDOG_USEC: '30000000' })).toBe(15_000);
  expect(watchdogIntervalMs({ WATCHDOG_USEC: '30000000', WATCHDOG_PID: '7' }, 7)).toBe(15_000);
  expect(watchdogIntervalMs({ WATCHDOG_USEC: '30000000', WATCHDOG_PID: '8' }, 7)).toBeUndefined();
  expect(watchdogIntervalMs({})).toBeUndefined();
  expect(watchdogIntervalMs({ WATCHDOG_USEC: 'soon' })).toBeUndefined();
});

test('it is fed only after a probe that succeeded, and a failing probe is repeated sooner', async () => {
  const fed: number[] = [];
  const events: { event: string; reason: string }[] = [];
  const stop = new AbortController();
  const answers = [true, false, false, 'throws', true] as const;
  let probes = 0;
  const done = feedWatchdog({
    intervalMs: 100,
    probe: async () => {
      const answer = answers[probes++];
      if (answer === undefined) stop.abort();
      if (answer === 'throws') throw new Error('refused');
      return answer ?? false;
    },
    notify: async (...assignments) => {
      expect(assignments).toEqual(['WATCHDOG=1']);
      fed.push(probes);
    },
    log: logTo({ write: (line: string) => void events.push(JSON.parse(line)) }),
    signal: stop.signal,
  });
  await delay(190); // 100 ms, then three tries that are 10 ms apart
  expect(fed).toEqual([1, 5]);
  expect(events.map(({ event, reason }) => [event, reason])).toEqual([['self-probe-failed', 'no answer']]);
  await done;
  expect(probes).toBe(6);
});
