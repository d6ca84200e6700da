import type { MetricObjectWithValues, MetricValueWithName, Registry } from 'prom-client';
import Histogram from 'prom-client/lib/histogram.js';

/** Seconds: from a tenth of a millisecond, what the relay adds, to what pulling an image takes. */
const BOUNDS = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300,
] as const;

/** Times of one kind, counted by length. */
export class Buckets {
  /** One more than there are bounds: the last is what is longer than all of them. */
  readonly counts = new Float64Array(BOUNDS.length + 1);
  seconds = 0;

  add(seconds: number): void {
    this.seconds += seconds;
    let index = 0;
    while (index < BOUNDS.length && seconds > (BOUNDS[index] ?? 0)) index += 1;
    this.counts[index] = (this.counts[index] ?? 0) + 1;
  }
}

/**
 * A histogram that is counted elsewhere and only told by prom-client, whose own takes a microsecond for each time, as it
 * looks at the labels again.
 */
export class CountedHistogram<Label extends string> extends Histogram<Label> {
  readonly #metric: { name: string; help: string };
  readonly #series: () => Iterable<[labels: Record<Label, string>, buckets: Buckets]>;

  constructor(
    registry: Registry,
    metric: { name: string; help: string; labelNames: Label[] },
    series: () => Iterable<[labels: Record<Label, string>, buckets: Buckets]>,
  ) {
    super({ ...metric, registers: [registry] });
    this.#metric = metric;
    this.#series = series;
  }

  override async get(): Promise<MetricObjectWithValues<MetricValueWithName<Label | 'le'>>> {
    const { name, help } = this.#metric;
    const values: MetricValueWithName<Label | 'le'>[] = [];
    const add = (metricName: string, labels: object, value: number) =>
      values.push({ metricName, labels: labels as MetricValueWithName<Label | 'le'>['labels'], value });
    for (const [labels, { counts, seconds }] of this.#series()) {
      let total = 0;
      for (const [index, count] of counts.entries()) {
        total += count;
        add(`${name}_bucket`, { le: BOUNDS[index] ?? '+Inf', ...labels }, total);
      }
      add(`${name}_sum`, labels, seconds);
      add(`${name}_count`, labels, total);
    }
    return { name, help, type: 'histogram' as never, aggregator: 'sum', collect: () => undefined, values };
  }

  /** What the registry asks instead of `get` where there is one; prom-client does not declare it. */
  getForPromString(): ReturnType<this['get']> {
    return this.get() as ReturnType<this['get']>;
  }
}
