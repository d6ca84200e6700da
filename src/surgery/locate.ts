import type { Node } from '../agent/node.ts';
import { Container, ContainerState } from '../gen/cri.ts';
import { type Slot, SlotPhase } from '../gen/gantry/v1/slots.ts';
import { chooseContainer } from '../runtime/cri.ts';

/** What a user means by an ID or a name: a slot, or a container that is none yet. */
export type Located = { readonly slot: Slot } | { readonly container: Container };

/** Every container of the node as its users know it. Errors: NOT_FOUND, IS_SANDBOX. */
export async function locate(node: Node, wanted: string, signal?: AbortSignal): Promise<Located> {
  const [slots, containers, sandboxes] = await Promise.all([
    node.slots.list(),
    node.cri.listContainers(signal),
    node.cri.listSandboxes(signal),
  ]);
  const byReal = slots.filter(({ occupant }) => wanted.length >= 3 && occupant.startsWith(wanted));
  const [only] = byReal;
  if (only !== undefined && byReal.length === 1) return { slot: only };
  const behind = new Set(slots.flatMap(({ id, occupant, hidden }) => [id, occupant, ...hidden]));
  const seen = [...containers.filter(({ id }) => !behind.has(id)), ...slots.map(asContainer)];
  const found = chooseContainer(wanted, seen, sandboxes);
  const slot = slots.find(({ id }) => id === found.id);
  return slot === undefined ? { container: found } : { slot };
}

function asContainer({ id, sandboxId, name, exit, phase }: Slot): Container {
  const isOver = exit !== undefined && phase === SlotPhase.SETTLED;
  const state = isOver ? ContainerState.CONTAINER_EXITED : ContainerState.CONTAINER_RUNNING;
  return Container.fromPartial({ id, podSandboxId: sandboxId, metadata: { name }, state });
}
