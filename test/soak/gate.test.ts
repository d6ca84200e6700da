import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Gate } from './gate.ts';

test('a closed gate waits for what is inside, and lets nothing in until it opens', async () => {
  const gate = new Gate();
  const order: string[] = [];
  const first = gate.through(async () => {
    await sleep(30);
    order.push('first ends');
  });
  const closed = await gate.close(1000);
  order.push('closed');
  expect(closed.isEmpty).toBe(true);
  const second = gate.through(async () => order.push('second'));
  await sleep(20);
  order.push('opened');
  closed[Symbol.dispose]();
  await Promise.all([first, second]);
  expect(order).toEqual(['first ends', 'closed', 'opened', 'second']);
});

test('it does not wait for ever, and says so', async () => {
  const gate = new Gate();
  const inside = gate.through(() => sleep(200));
  using closed = await gate.close(20);
  expect(closed.isEmpty).toBe(false);
  await inside;
});
