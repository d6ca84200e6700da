import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, expect, it } from 'vitest';
import { Bandwidth, type Clock } from './bandwidth.ts';

/** Time passes only in sleeps, which end in their order. */
class FakeClock implements Clock {
  time = 0;

  now(): number {
    return this.time;
  }

  async sleep(ms: number): Promise<void> {
    const until = this.time + ms;
    await Promise.resolve();
    this.time = Math.max(this.time, until);
  }
}

describe('Bandwidth', () => {
  it('lets through what the rate allows, after a small burst', async () => {
    const clock = new FakeClock();
    const bandwidth = new Bandwidth(1000, clock);
    await bandwidth.take(100);
    expect(clock.time).toBe(0);
    for (let chunk = 0; chunk < 10; chunk++) await bandwidth.take(200);
    expect(clock.time).toBe(2000);
  });

  it('is shared by all streams that take from it', async () => {
    const clock = new FakeClock();
    const bandwidth = new Bandwidth(1000, clock);
    await Promise.all([bandwidth.take(1100), bandwidth.take(1000), bandwidth.take(1000)]);
    expect(clock.time).toBe(3000);
  });

  it('does not save up what was not used', async () => {
    const clock = new FakeClock();
    const bandwidth = new Bandwidth(1000, clock);
    clock.time = 60_000;
    await bandwidth.take(1100);
    expect(clock.time).toBe(61_000);
  });

  it('changes nothing of what passes', async () => {
    const clock = new FakeClock();
    const chunks = Array.from({ length: 50 }, (_, index) => Buffer.alloc(1000, index));
    const passed = Readable.from(chunks).pipe(new Bandwidth(10_000, clock).stream());
    expect(await buffer(passed)).toEqual(Buffer.concat(chunks));
    expect(clock.time).toBe(4900);
  });
});
