import { Client, type Request } from './client.ts';
import { load } from './throughput.ts';
import { memory } from './usage.ts';
import type { Way, WayName } from './ways.ts';

/** Resident memory in MiB after so many calls. */
export interface Growth {
  readonly calls: number;
  readonly residentMiB: number;
}

const SAMPLES = 10;
const MIB = 2 ** 20;

/** Memory before the first call and after each tenth of so many. */
export async function growth(
  way: Way,
  request: Request,
  calls: number,
  signal: AbortSignal,
  progress: (done: number) => void,
): Promise<Growth[]> {
  const { pid = 0 } = way;
  const sample = async (done: number): Promise<Growth> => {
    progress(done);
    return { calls: done, residentMiB: (await memory(pid)).resident / MIB };
  };
  const samples = [await sample(0)];
  using client = await Client.connect(way.path);
  let done = 0;
  for (let i = 0; i < SAMPLES; i += 1) {
    signal.throwIfAborted();
    let left = calls / SAMPLES;
    done += await load(client, request, () => left-- > 0 && !signal.aborted);
    samples.push(await sample(done));
  }
  return samples;
}

/** Memory of all ways, before anybody calls. */
export async function atStart(ways: readonly Way[]): Promise<Partial<Record<WayName, number>>> {
  const entries = ways.flatMap(({ name, pid }) => (pid === undefined ? [] : [{ name, pid }]));
  return Object.fromEntries(
    await Promise.all(entries.map(async ({ name, pid }) => [name, (await memory(pid)).resident / MIB])),
  );
}
