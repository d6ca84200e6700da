import { Client, type Request } from './client.ts';

export interface Latency {
  readonly p50Ms: number;
  readonly p99Ms: number;
}

// One way after the other in short turns, as the machine is not always equally fast.
const BLOCK = 20;
const WARM_UP_BLOCKS = 25;

/** One call after the other on each way; times until the whole answer is there, in milliseconds. */
export async function latencies<Name extends string>(
  ways: readonly { readonly name: Name; readonly path: string }[],
  request: Request,
  calls: number,
  signal: AbortSignal,
): Promise<{ bytes: number; latencies: Record<Name, Latency> }> {
  using stack = new DisposableStack();
  const clients: [Name, Client][] = [];
  for (const { name, path } of ways) clients.push([name, stack.use(await Client.connect(path))]);
  const taken = new Map(clients.map(([name]) => [name, [] as number[]]));
  const lengths = new Set<number>();
  for (let block = -WARM_UP_BLOCKS; block < calls / BLOCK; block += 1) {
    signal.throwIfAborted();
    for (const [name, client] of clients) {
      for (let i = 0; i < BLOCK; i += 1) {
        const begun = performance.now();
        const bytes = await client.call(request);
        if (block < 0) continue;
        taken.get(name)?.push(performance.now() - begun);
        lengths.add(bytes);
      }
    }
  }
  const entries = [...taken].map(([name, times]) => [name, { p50Ms: at(times, 0.5), p99Ms: at(times, 0.99) }]);
  return { bytes: Math.max(...lengths), latencies: Object.fromEntries(entries) as Record<Name, Latency> };
}

/** The time that such a share of them does not exceed; sorts them. */
export function at(times: number[], share: number): number {
  times.sort((a, b) => a - b);
  return times[Math.floor(times.length * share)] ?? Number.NaN;
}
