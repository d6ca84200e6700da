import { setTimeout as delay } from 'node:timers/promises';
import { PodSandboxStatusRequest } from '../../../src/gen/cri.ts';
import { Client, request } from './client.ts';
import { cpuMs } from './usage.ts';
import type { Way, WayName } from './ways.ts';

const LISTS = [request('ListPodSandbox'), request('ListContainers')];

/**
 * What kubelet's relist asks, once a second: both lists, and the status of pods, one after the other; kubelet asks for
 * those in which something has changed. All ways at the same time, each on a connection of its own.
 *
 * @returns CPU of the process in between, in percent of one core
 */
export async function relist(
  ways: readonly Way[],
  sandboxes: readonly string[],
  seconds: number,
  signal: AbortSignal,
): Promise<Partial<Record<WayName, number>>> {
  const statuses = sandboxes.map((podSandboxId) =>
    request('PodSandboxStatus', PodSandboxStatusRequest.encode({ podSandboxId, verbose: false }).finish()),
  );
  using stack = new DisposableStack();
  const loads: { name: WayName; pid: number; client: Client; cpuMs: number }[] = [];
  for (const { name, path, pid } of ways) {
    if (pid !== undefined) loads.push({ name, pid, client: stack.use(await Client.connect(path)), cpuMs: 0 });
  }
  const round = async ({ client }: { client: Client }) => {
    for (const one of [...LISTS, ...statuses]) await client.call(one);
  };
  for (const one of loads) await round(one);
  for (const one of loads) one.cpuMs = await cpuMs(one.pid);
  const begun = performance.now();
  for (let second = 0; second < seconds; second += 1) {
    signal.throwIfAborted();
    for (const one of loads) await round(one);
    await delay(Math.max(0, begun + (second + 1) * 1000 - performance.now()), undefined, { signal });
  }
  const ms = performance.now() - begun;
  const entries = await Promise.all(
    loads.map(async ({ name, pid, cpuMs: before }) => [name, (100 * ((await cpuMs(pid)) - before)) / ms] as const),
  );
  return Object.fromEntries(entries);
}
