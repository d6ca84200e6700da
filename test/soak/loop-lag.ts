import { monitorEventLoopDelay } from 'node:perf_hooks';

const RESOLUTION_MS = 5;

/** How late the soak's own event loop is: its measurements are no better, and on a machine that busy nobody is quicker. */
export class LoopLag implements Disposable {
  readonly #histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  #maxMs = 0;

  constructor() {
    this.#histogram.enable();
  }

  /** The most since `restart`, and the most of all. */
  get recentMs(): number {
    return this.#histogram.count === 0 ? 0 : Math.max(0, this.#histogram.max / 1e6 - RESOLUTION_MS);
  }

  get maxMs(): number {
    return Math.max(this.#maxMs, this.recentMs);
  }

  restart(): void {
    this.#maxMs = this.maxMs;
    this.#histogram.reset();
  }

  [Symbol.dispose](): void {
    this.#histogram.disable();
  }
}
