import { Caller } from '../caller.ts';
import type { Target } from '../target.ts';
import { pause } from './pace.ts';
import { reads } from './reads.ts';

const CALLS_AT_ONCE = 2;
// Whoever is refused at once is not to be refused ten thousand times a second.
const FAILED_MS = 20;

/** Calls without a break until `signal` aborts, so that some of them are made at the very moment of a fault. */
export async function pressure(target: Target, kubelet: Caller, signal: AbortSignal): Promise<void> {
  const crictl = new Caller('crictl', target, undefined);
  const { version } = reads(target);
  const press = async (caller: Caller) => {
    while (!signal.aborted && !target.signal.aborted) {
      const outcome = await version(caller);
      if ('failure' in outcome) await pause(FAILED_MS, signal);
    }
  };
  await Promise.all([kubelet, crictl].flatMap((caller) => Array.from({ length: CALLS_AT_ONCE }, () => press(caller))));
}
