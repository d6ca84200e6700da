import { Client, type Request } from './client.ts';
import { cpuMs } from './usage.ts';
import type { Way, WayName } from './ways.ts';

export interface Throughput {
  readonly callsPerSecond: number;
  /** Of the process in between, per call; undefined when there is none. */
  readonly cpuMicros: number | undefined;
}

export const IN_FLIGHT = 16;
const SLICES = 5;

/** Sixteen calls at a time on one connection, each way in turns. */
export async function throughput(
  ways: readonly Way[],
  request: Request,
  secondsEach: number,
  signal: AbortSignal,
): Promise<Record<WayName, Throughput>> {
  using stack = new DisposableStack();
  const sums = new Map<WayName, { calls: number; ms: number; cpuMs: number }>();
  const clients: [Way, Client][] = [];
  for (const way of ways) {
    clients.push([way, stack.use(await Client.connect(way.path))]);
    sums.set(way.name, { calls: 0, ms: 0, cpuMs: 0 });
  }
  for (let slice = -1; slice < SLICES; slice += 1) {
    for (const [{ name, pid }, client] of clients) {
      signal.throwIfAborted();
      const cpuBefore = pid === undefined ? 0 : await cpuMs(pid);
      const begun = performance.now();
      const calls = await loadFor(client, request, slice < 0 ? 1000 : (secondsEach * 1000) / SLICES);
      const ms = performance.now() - begun;
      const sum = sums.get(name);
      if (slice < 0 || sum === undefined) continue; // warm-up
      sum.calls += calls;
      sum.ms += ms;
      if (pid !== undefined) sum.cpuMs += (await cpuMs(pid)) - cpuBefore;
    }
  }
  const entries = ways.map(({ name, pid }) => {
    const { calls, ms, cpuMs: cpu } = sums.get(name) ?? { calls: 0, ms: 0, cpuMs: 0 };
    return [name, { callsPerSecond: (calls * 1000) / ms, cpuMicros: pid && (cpu * 1000) / calls }];
  });
  return Object.fromEntries(entries) as Record<WayName, Throughput>;
}

async function loadFor(client: Client, request: Request, ms: number): Promise<number> {
  const end = performance.now() + ms;
  return load(client, request, () => performance.now() < end);
}

/** Keeps calls in flight as long as `more` says so; resolves with how many there were. */
export async function load(client: Client, request: Request, more: () => boolean): Promise<number> {
  let calls = 0;
  const worker = async (): Promise<void> => {
    while (more()) {
      calls += 1;
      await client.call(request);
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
  return calls;
}
