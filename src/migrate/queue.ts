/**
 * So many at a time: who comes when all places are taken waits. Higher priorities go first, and among the same whoever
 * came first.
 */
export class Places {
  #free: number;
  readonly #waiting: { priority: number; admit: (place: Disposable) => void }[] = [];

  constructor(limit: number) {
    this.#free = limit;
  }

  /** How many wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** A place, left by disposing it; undefined when there is none. */
  tryEnter(): Disposable | undefined {
    // Nobody waits while a place is free.
    if (this.#free === 0) return undefined;
    this.#free--;
    return this.#place();
  }

  /** Waits for a place. Errors: the signal's reason, when it aborts before. */
  async enter(priority: number, signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    const place = this.tryEnter();
    if (place !== undefined) return place;
    return new Promise<Disposable>((resolve, reject) => {
      const waiting = {
        priority,
        admit: (given: Disposable) => {
          signal.removeEventListener('abort', giveUp);
          resolve(given);
        },
      };
      const giveUp = () => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        reject(signal.reason);
      };
      signal.addEventListener('abort', giveUp, { once: true });
      const behind = this.#waiting.findIndex((other) => other.priority < priority);
      this.#waiting.splice(behind < 0 ? this.#waiting.length : behind, 0, waiting);
    });
  }

  #place(): Disposable {
    let isLeft = false;
    return {
      [Symbol.dispose]: () => {
        if (isLeft) return;
        isLeft = true;
        const next = this.#waiting.shift();
        if (next === undefined) this.#free++;
        else next.admit(this.#place());
      },
    };
  }
}
