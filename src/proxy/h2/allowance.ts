/**
 * How often something may happen that costs this side more than the peer, or that gets nobody anywhere: resets, pings,
 * empty frames. A burst, and so much a second.
 */
export class Allowance {
  readonly #burst: number;
  readonly #perSecond: number;
  #left: number;
  #since = performance.now();

  constructor(burst: number, perSecond: number) {
    this.#burst = burst;
    this.#perSecond = perSecond;
    this.#left = burst;
  }

  /** Takes one; false when there is none left. The clock is read only then. */
  take(): boolean {
    if (this.#left < 1) {
      const now = performance.now();
      this.#left = Math.min(this.#burst, this.#left + ((now - this.#since) * this.#perSecond) / 1000);
      this.#since = now;
      if (this.#left < 1) return false;
    }
    this.#left -= 1;
    return true;
  }
}
