import { Transform } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

/** What an idle stretch may make up for. */
const BURST_MS = 100;

/** Time, to be replaced in tests. */
export interface Clock {
  /** Milliseconds. */
  now(): number;
  sleep(ms: number): Promise<unknown>;
}

const CLOCK: Clock = { now: () => performance.now(), sleep: (ms) => sleep(ms) };

/** A limit in bytes per second that several streams share: a token bucket, which a large chunk leaves in debt. */
export class Bandwidth {
  readonly #bytesPerMs: number;
  readonly #clock: Clock;
  /** When everything that was let through so far has its time. */
  #paidUntil: number;

  constructor(bytesPerSecond: number, clock = CLOCK) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#clock = clock;
    this.#paidUntil = clock.now() - BURST_MS;
  }

  /** Resolves when so many bytes may pass. */
  async take(bytes: number): Promise<void> {
    const now = this.#clock.now();
    this.#paidUntil = Math.max(this.#paidUntil, now - BURST_MS) + bytes / this.#bytesPerMs;
    if (this.#paidUntil > now) await this.#clock.sleep(this.#paidUntil - now);
  }

  /** Passes on what it is given, no faster than the limit. */
  stream(): Transform {
    return new Transform({
      transform: (chunk: Buffer, _encoding, done) =>
        void this.take(chunk.length).then(
          () => done(null, chunk),
          (error: Error) => done(error),
        ),
    });
  }
}
