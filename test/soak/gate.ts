import { setTimeout as sleep } from 'node:timers/promises';

/** Lets work through, except while somebody holds it closed and waits until what had passed has come out. */
export class Gate {
  #inside = 0;
  #closed: PromiseWithResolvers<void> | undefined;

  /** Runs something inside, as soon as the gate is open. */
  async through<Value>(work: () => Promise<Value>): Promise<Value> {
    while (this.#closed !== undefined) await this.#closed.promise;
    this.#inside += 1;
    try {
      return await work();
    } finally {
      this.#inside -= 1;
    }
  }

  /** Closes it until disposed. `isEmpty` tells whether all have come out, for which it waits up to `limitMs`. */
  async close(limitMs: number): Promise<{ isEmpty: boolean } & Disposable> {
    while (this.#closed !== undefined) await this.#closed.promise;
    const closed = Promise.withResolvers<void>();
    this.#closed = closed;
    const limit = performance.now() + limitMs;
    while (this.#inside > 0 && performance.now() < limit) await sleep(10);
    return {
      isEmpty: this.#inside === 0,
      [Symbol.dispose]: () => {
        this.#closed = undefined;
        closed.resolve();
      },
    };
  }
}
