import { setTimeout as sleep } from 'node:timers/promises';
import type { Node } from '../agent/node.ts';
import { removeOrphanedVolumes } from '../checkpoint/volumes.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerState, PodSandboxState } from '../gen/cri.ts';
import { type Slot, SlotPhase } from '../gen/gantry/v1/slots.ts';
import { stoppedNow } from '../proxy/slots/face.ts';
import { SLOT_LABEL } from '../proxy/slots/label.ts';
import { find, removeOccupant } from './occupants.ts';
import { Place } from './place.ts';
import { retainedBy, undo } from './surgery.ts';

const INTERVAL_MS = 10_000;
const AGAIN_MS = 1000;

/** Until the signal: finishes what an agent before has left, and clears away what nobody needs any more. */
export async function keepReconciled(node: Node, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const isDone = await reconcile(node).catch((error: unknown) => {
      // Without a relay there is nobody whom the slots could be shown to.
      const level = GantryError.from(error).reason === 'PROXY_UNAVAILABLE' ? 'debug' : 'warn';
      node.log[level]('reconcile-failed', { reason: messageOf(error) });
      return false;
    });
    await sleep(isDone ? INTERVAL_MS : AGAIN_MS, undefined, { signal }).catch(() => undefined);
  }
}

/**
 * Compares the slots with what the runtime has. Sandboxes that an operation works on are left alone.
 *
 * @returns whether nothing is left to be done again
 */
export async function reconcile(node: Node): Promise<boolean> {
  const slots = await node.slots.list();
  const sandboxes = new Map((await node.cri.listSandboxes()).map(({ id, state }) => [id, state]));
  let isDone = true;
  for (const slot of slots) {
    if (node.busy.has(slot.sandboxId) || node.busy.has(slot.occupant)) continue;
    const work = reconcileSlot(node, slot, sandboxes.get(slot.sandboxId));
    const over = work.then(
      () => undefined,
      () => undefined,
    );
    node.reconciling.set(slot.sandboxId, over);
    try {
      await work;
    } catch (error) {
      isDone = false;
      node.log.warn('slot-unsettled', { slot: slot.id, reason: messageOf(error) });
    } finally {
      node.reconciling.delete(slot.sandboxId);
    }
  }
  await removeStrays(node);
  await removeOrphanedVolumes(node);
  return isDone;
}

/** @param state of its sandbox; undefined when that is no more */
async function reconcileSlot(node: Node, listed: Slot, state: number | undefined): Promise<void> {
  const place = Place.found(node, listed);
  // It may have been worked on since it was listed.
  if (!(await place.refresh())) return;
  if (state === undefined) await node.slots.remove(place.slot);
  else await settle(node, place, state === PodSandboxState.SANDBOX_READY);
}

async function settle(node: Node, place: Place, isReady: boolean): Promise<void> {
  const { slot } = place;
  const occupant = await find(node, slot.occupant);
  if (slot.operation !== undefined) {
    await finish(node, place, occupant?.state === ContainerState.CONTAINER_RUNNING, isReady);
    return;
  }
  if (slot.extra && slot.occupant === '') {
    // Its client has removed it.
    for (const id of slot.hidden) await removeOccupant(node, id);
    await node.slots.remove(slot);
    return;
  }
  if (slot.occupant !== '' && occupant === undefined) {
    // Somebody has removed it behind the relay's back.
    if (slot.extra) await node.slots.remove(slot);
    else await place.put({ occupant: '', exit: slot.exit ?? stoppedNow() });
    return;
  }
  if (slot.extra && slot.exit === undefined && occupant?.state === ContainerState.CONTAINER_EXITED) {
    const { status } = await node.cri.containerStatus(occupant.id);
    const exit = { ...stoppedNow(), code: status?.exitCode ?? 0, finishedAt: status?.finishedAt ?? 0n };
    await place.put({ exit });
  }
  // Nobody can come into it any more, and its client has to see that there is nobody.
  if (!isReady && slot.occupant === '' && slot.exit === undefined) await place.put({ exit: stoppedNow() });
  const { retained } = slot;
  if (retained !== undefined && slot.occupant !== '' && retained.untilUnixMs < Date.now()) {
    await place.put({ retained: undefined });
  }
  await place.sweep();
}

/** An operation that was cut off is carried through when the new state is there already, else undone. */
async function finish(node: Node, place: Place, isRunning: boolean, isReady: boolean): Promise<void> {
  const { operation, phase, occupant, hidden, exit: stopped } = place.slot;
  const result = 'done, after the agent was started again';
  node.log.warn('operation-found', { slot: place.slot.id, verb: operation?.verb, phase });
  if (!isReady) {
    // Its sandbox has been stopped, and all that was in it.
    await place.settle({ ...(occupant === '' && { exit: stoppedNow() }) }, { result: 'the sandbox was stopped' });
  } else if (phase === SlotPhase.TRYING && isRunning && stopped === undefined) {
    await place.settle({ retained: retainedBy(place), exit: undefined }, { result });
  } else if (operation?.verb === 'remove' && phase === SlotPhase.CHANGING && !isRunning) {
    await place.settle({ occupant: '', hidden: [...hidden, occupant], retained: undefined }, { result });
  } else {
    await undo(node, place, 'undone, after the agent was started again');
    return;
  }
  await place.sweep();
}

/** Containers of slots that are no more: the client has removed what it knew, and not what was retained behind it. */
async function removeStrays(node: Node): Promise<void> {
  const containers = (await node.cri.listContainers()).filter(({ labels }) => SLOT_LABEL in labels);
  if (containers.length === 0) return;
  const slots = await node.slots.list();
  const needed = new Set(slots.flatMap(({ occupant, hidden }) => [occupant, ...hidden]));
  const worked = new Set(slots.filter(({ operation }) => operation !== undefined).map(({ id }) => id));
  for (const { id, labels, podSandboxId } of containers) {
    if (needed.has(id) || worked.has(labels[SLOT_LABEL] ?? '') || node.busy.has(podSandboxId)) continue;
    node.log.info('stray-removed', { container: id, slot: labels[SLOT_LABEL] });
    await removeOccupant(node, id);
  }
}
