/** Durations in milliseconds, all of them kept: a soak has some ten thousands. */
export class Latencies {
  readonly #values: number[] = [];

  add(ms: number): void {
    this.#values.push(ms);
  }

  /** The least duration that `part` of all do not exceed (nearest rank); undefined when there are none. */
  quantile(part: number): number | undefined {
    const sorted = this.#values.toSorted((a, b) => a - b);
    return sorted[Math.max(0, Math.ceil(sorted.length * part) - 1)];
  }
}
