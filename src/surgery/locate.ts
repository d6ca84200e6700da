import type { Node } from '../agent/node.ts';
import { GantryError } from '../errors.ts';
import { Container, ContainerState } from '../gen/cri.ts';
import { type Slot, SlotPhase } from '../gen/gantry/v1/slots.ts';
import { chooseContainer } from '../runtime/cri.ts';

/** What a user means by an ID or a name: a slot, or a container that is none yet. */
export type Located = { readonly slot: Slot } | { readonly container: Container };

/** Every container of the node as its users know it. Errors: NOT_FOUND, IS_SANDBOX. */
export async function locate(node: Node, wanted: string, signal?: AbortSignal): Promise<Located> {
  return locateAmong(node, await node.slots.list(), wanted, signal);
}

async function locateAmong(node: Node, slots: Slot[], wanted: string, signal?: AbortSignal): Promise<Located> {
  const [containers, sandboxes] = await Promise.all([node.cri.listContainers(signal), node.cri.listSandboxes(signal)]);
  const byReal = slots.filter(({ occupant }) => wanted.length >= 3 && occupant.startsWith(wanted));
  const [only] = byReal;
  if (only !== undefined && byReal.length === 1) return { slot: only };
  const behind = new Set(slots.flatMap(({ id, occupant, hidden }) => [id, occupant, ...hidden]));
  const seen = [...containers.filter(({ id }) => !behind.has(id)), ...slots.map(asContainer)];
  const found = chooseContainer(wanted, seen, sandboxes);
  const slot = slots.find(({ id }) => id === found.id);
  return slot === undefined ? { container: found } : { slot };
}

/**
 * The real container that a user means, for what is done to containers as the runtime has them. Without a relay on the
 * node there are no slots. Errors: NOT_FOUND, IS_SANDBOX, SLOT_EMPTY.
 */
export async function locateReal(node: Node, wanted: string, signal?: AbortSignal): Promise<Container> {
  const slots = await node.slots.list().catch(() => []);
  const located = await locateAmong(node, slots, wanted, signal);
  if ('container' in located) return located.container;
  const { occupant, name } = located.slot;
  const real = (await node.cri.listContainers(signal)).find(({ id }) => id === occupant);
  if (real !== undefined) return real;
  throw new GantryError('SLOT_EMPTY', `nobody is in slot ${name}`, { hint: 'gantry insert puts a container there' });
}

function asContainer({ id, sandboxId, name, exit, phase }: Slot): Container {
  const isOver = exit !== undefined && phase === SlotPhase.SETTLED;
  const state = isOver ? ContainerState.CONTAINER_EXITED : ContainerState.CONTAINER_RUNNING;
  return Container.fromPartial({ id, podSandboxId: sandboxId, metadata: { name }, state });
}
