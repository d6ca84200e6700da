import type { Node } from '../agent/node.ts';
import { networkOf } from '../checkpoint/freeze.ts';
import { GantryError } from '../errors.ts';
import type { PodSandboxConfig } from '../gen/cri.ts';
import type { Address } from '../network/address.ts';
import { giveToSandbox } from '../network/ipam.ts';
import { open } from '../network/shield.ts';
import { endShim } from '../runtime/containerd.ts';
import { removeOccupant } from '../surgery/occupants.ts';
import type { SandboxKey, TargetEntry } from './journal.ts';

/** Opens the door of a pod that has taken over and has its addresses lead here. Idempotent: a restarted agent does it again. */
export async function serve(
  node: Node,
  {
    sandbox,
    operation,
    peer,
    sandboxMetadata,
  }: Pick<TargetEntry, 'sandbox' | 'operation' | 'peer' | 'sandboxMetadata'>,
  addresses: Address[],
): Promise<void> {
  const { pid } = await node.cri.describeSandbox(sandbox);
  const netns = networkOf(pid);
  await open(netns);
  await node.identities.takeOver({ ...sandboxMetadata, operation, sandbox, netns, addresses, peer });
  await giveToSandbox(node.config.ipamDir, addresses, sandbox);
}

/**
 * Refuses a pod that this node has already: its rollback, which goes by the metadata, would remove that one.
 * Errors: BUSY.
 */
export async function refuseTaken(node: Node, wanted: SandboxKey): Promise<void> {
  const [taken] = await sandboxesOf(node, wanted);
  if (taken === undefined) return;
  const { namespace, name, uid } = wanted;
  throw new GantryError('BUSY', `node ${node.config.node} has pod ${namespace}/${name} (${uid}) already: ${taken}`, {
    hint: 'remove it there first; what a cancelled migration has left there goes by itself',
  });
}

/**
 * By its metadata, because its ID may never have been learned. Its containers first: of one whose start was cut off the
 * runtime has something left, which would keep the shim.
 */
export async function removePlaceholder(node: Node, { sandboxMetadata, containers }: TargetEntry): Promise<void> {
  for (const { id } of containers) await removeOccupant(node, id);
  for (const id of await sandboxesOf(node, sandboxMetadata)) await removeMade(node, id);
}

/** Removes a sandbox whose containers are gone already, and what there is of it beside the runtime. Idempotent. */
export async function removeMade(node: Node, sandbox: string): Promise<void> {
  await node.cri.removeSandbox(sandbox);
  await endShim(sandbox);
  await node.moved.forget(sandbox);
}

/** Of a sandbox's configuration. */
export function keyOf({ metadata }: PodSandboxConfig): SandboxKey {
  const { name = '', namespace = '', uid = '', attempt = 0 } = metadata ?? {};
  return { name, namespace, uid, attempt };
}

/** IDs of what a node has under these, whatever its state. */
export async function sandboxesOf(node: Node, wanted: SandboxKey): Promise<string[]> {
  const sandboxes = await node.cri.listSandboxes();
  const same = sandboxes.filter(
    ({ metadata }) =>
      metadata?.name === wanted.name &&
      metadata.namespace === wanted.namespace &&
      metadata.uid === wanted.uid &&
      metadata.attempt === wanted.attempt,
  );
  return same.map(({ id }) => id);
}
