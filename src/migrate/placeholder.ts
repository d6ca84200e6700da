import type { Node } from '../agent/node.ts';
import { networkOf } from '../checkpoint/freeze.ts';
import { type Address, announce } from '../network/address.ts';
import { giveToSandbox } from '../network/ipam.ts';
import { open } from '../network/shield.ts';
import type { TargetEntry } from './journal.ts';

/** Opens the door of a pod that has taken over and tells the neighbours. Idempotent: a restarted agent does it again. */
export async function serve(node: Node, sandbox: string, addresses: Address[]): Promise<void> {
  const { pid } = await node.cri.describeSandbox(sandbox);
  await open(networkOf(pid));
  announce(networkOf(pid), addresses).catch((error: unknown) =>
    node.log('announce-failed', { sandbox, why: String(error) }),
  );
  await giveToSandbox(node.config.ipamDir, addresses, sandbox);
}

/** By its metadata, because its ID may never have been learned. */
export async function removePlaceholder(node: Node, { sandboxMetadata: wanted }: TargetEntry): Promise<void> {
  for (const { id, metadata } of await node.cri.listSandboxes()) {
    const same =
      metadata?.name === wanted.name &&
      metadata.namespace === wanted.namespace &&
      metadata.uid === wanted.uid &&
      metadata.attempt === wanted.attempt;
    if (same) await node.cri.removeSandbox(id);
  }
}
