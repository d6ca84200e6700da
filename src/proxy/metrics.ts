import Counter from 'prom-client/lib/counter.js';
import Registry from 'prom-client/lib/registry.js';
import { nameOfCode } from '../grpc-status.ts';
import { Buckets, CountedHistogram } from './histogram.ts';
import type { MethodName } from './method-names.ts';
import type { Mode } from './observe.ts';
import { addGauges, addProcessMetrics, addTotals } from './read-metrics.ts';
import type { CallRecord, CallSink } from './recorder.ts';

const MODES = ['piped', 'intercepted', 'served', 'refused'] as const satisfies Mode[];
const MODE_INDEX = Object.fromEntries(MODES.map((mode, index) => [mode, index])) as Record<Mode, number>;
// gRPC has 0 to 16; a runtime that makes up others makes no label of them.
const CODES = 18;
const OTHER_CODE = CODES - 1;

/** What is counted of one method: plain numbers, so that a call costs no more than a few additions. */
class MethodCounts {
  readonly calls = new Float64Array(MODES.length * CODES);
  readonly own = new Buckets();
  readonly upstream = new Buckets();
}

/** The relay's metrics for Prometheus. Names and meanings stand in docs/relay.md. */
export class RelayMetrics implements CallSink {
  readonly registry = new Registry();
  readonly #methods = new Map<MethodName, MethodCounts>();
  #open = 0;
  #connections = 0;
  #upstreamConnections = 0;

  constructor() {
    const registers = [this.registry];
    const counts = () => this.#callCounts();
    new Counter({
      name: 'gantry_cri_calls_total',
      help: 'Calls that have ended, by method, gRPC status and what the relay did with them.',
      labelNames: ['method', 'code', 'mode'],
      registers,
      collect() {
        this.reset();
        for (const [labels, count] of counts()) this.inc(labels, count);
      },
    });
    new CountedHistogram(
      this.registry,
      {
        name: 'gantry_cri_call_seconds',
        help: 'How long calls took: part="own" in the relay, part="upstream" at the runtime. Event streams are left out.',
        labelNames: ['method', 'part'],
      },
      () => this.#times(),
    );
    addGauges(this.registry, [
      ['gantry_open_streams', 'Calls in flight.', () => this.#open],
      ['gantry_downstream_connections', 'Connections from kubelet and others.', () => this.#connections],
    ]);
    const reconnects = () => Math.max(0, this.#upstreamConnections - 1);
    addTotals(this.registry, [
      ['gantry_upstream_reconnects_total', 'Connections to the runtime after the first.', reconnects],
    ]);
    addProcessMetrics(this.registry);
  }

  callStarted(): void {
    this.#open += 1;
  }

  callEnded({ method, mode, code, ownMs, upstreamMs }: CallRecord): void {
    this.#open -= 1;
    let counts = this.#methods.get(method);
    if (counts === undefined) {
      counts = new MethodCounts();
      this.#methods.set(method, counts);
    }
    const index = MODE_INDEX[mode] * CODES + (code >= 0 && code < OTHER_CODE ? code : OTHER_CODE);
    counts.calls[index] = (counts.calls[index] ?? 0) + 1;
    // A stream of events lives as long as kubelet, and a refused call has no time worth knowing.
    if (method.kind === 'watch' || mode === 'refused' || mode === 'served') return;
    counts.own.add(ownMs / 1000);
    counts.upstream.add(upstreamMs / 1000);
  }

  connections(change: 1 | -1): void {
    this.#connections += change;
  }

  upstreamConnected(): void {
    this.#upstreamConnections += 1;
  }

  *#callCounts(): Iterable<[labels: { method: string; code: string; mode: Mode }, count: number]> {
    for (const [{ label }, { calls }] of this.#methods) {
      for (const [index, count] of calls.entries()) {
        const mode = MODES[Math.floor(index / CODES)];
        const code = index % CODES;
        if (count === 0 || mode === undefined) continue;
        yield [{ method: label, code: code === OTHER_CODE ? 'other' : nameOfCode(code), mode }, count];
      }
    }
  }

  *#times(): Iterable<[labels: { method: string; part: string }, buckets: Buckets]> {
    for (const [{ label }, { own, upstream }] of this.#methods) {
      if (own.counts.every((count) => count === 0)) continue;
      yield [{ method: label, part: 'own' }, own];
      yield [{ method: label, part: 'upstream' }, upstream];
    }
  }
}
