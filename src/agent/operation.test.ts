import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Operation } from './operation.ts';

function limited(limits: Record<string, number>): Operation {
  const operation = new Operation('redis');
  for (const [phase, seconds] of Object.entries(limits)) operation.limits.set(phase, seconds);
  return operation;
}

test('a phase over its limit cancels the operation, and says which it was', async () => {
  const operation = limited({ dump: 0.01 });
  const cutOff = operation.phase('dump', () => sleep(10_000, undefined, { signal: operation.signal }));
  await expect(cutOff).rejects.toThrow();
  expect(operation.signal.reason).toMatchObject({
    reason: 'TIMEOUT',
    hint: expect.stringContaining('--timeout "dump='),
  });
  expect(() => operation.throwIfCancelled()).toThrow('"dump" took longer than its limit of 0.01 s');
});

test('what is over in time, has no limit, or has passed the commit is not cut off', async () => {
  const operation = limited({ connect: 0.03, frozen: 0.02 });
  await operation.phase('connect', () => Promise.resolve());
  await operation.phase('sync files', () => sleep(50));
  using _limit = operation.limit('frozen');
  operation.commit();
  await sleep(40);
  expect(operation.signal.aborted).toBe(false);
});
