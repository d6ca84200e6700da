import type { Caller } from '../caller.ts';
import type { Target } from '../target.ts';
import { repeat } from './pace.ts';
import { reads } from './reads.ts';

/** What kubelet does each second: its relist, the node's status, images and their disk, each on its own. */
export async function kubeletLoad(target: Target, caller: Caller): Promise<void> {
  await Promise.all(reads(target).all.map((read) => repeat(1000, target.signal, () => read(caller))));
}
