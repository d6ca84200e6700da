import { randomBytes } from 'node:crypto';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { PoisedContainer } from '../checkpoint/restore-container.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerConfig, ContainerState, type PodSandboxConfig, PodSandboxState } from '../gen/cri.ts';
import type { Result, SurgeryRequest } from '../gen/gantry/v1/agent.ts';
import { type Retained, Slot, SlotPhase } from '../gen/gantry/v1/slots.ts';
import { untilDone } from '../migrate/retry.ts';
import { stoppedNow } from '../proxy/slots/face.ts';
import { SLOT_LABEL } from '../proxy/slots/label.ts';
import { type Located, locate } from './locate.ts';
import { type Newcomer, newcomer, newcomerFor } from './newcomer.ts';
import {
  comeBack,
  copyLayer,
  create,
  find,
  freezeOccupant,
  GRACE_ANNOTATION,
  isRunning,
  nextAttempt,
  removeOccupant,
  staysRunning,
  stopOccupant,
} from './occupants.ts';
import { alone, imagesOf, Place, type Verb } from './place.ts';

/*
 * A swap, and what the others have of it. Up to "settled" whatever fails brings back who was there before:
 *
 *   prepare      the new one is made, and waits              clients: the old one, as it is
 *   change over  the old one is stopped or frozen,           clients: running, calls wait
 *                the new one starts
 *   try          the new one has to stay up for a while      clients: running, calls reach the new one
 *   settled      the old one is retained for a rollback      clients: the new one, in the place of the old
 *
 * The old one is never let go on while the new one may run.
 */

/** Takes a container out of its sandbox; its slot stays. Errors: NOT_FOUND, NOT_RUNNING, SLOT_EMPTY, BUSY. */
export async function remove(node: Node, request: SurgeryRequest, operation: Operation): Promise<Result> {
  const takeOut = async (place: Place): Promise<number> => {
    const { occupant } = place.slot;
    const began = performance.now();
    operation.commit();
    await place.put({ phase: SlotPhase.CHANGING });
    await operation.phase(request.keepState ? 'freeze' : 'stop', () => leave(node, place, request));
    const retained = request.keepState ? retainedBy(place) : undefined;
    await place.settle(
      { occupant: '', hidden: [...place.slot.hidden, occupant], retained },
      { result: 'done', changeOverMs: performance.now() - began },
    );
    return performance.now() - began;
  };
  return operate(node, request, operation, 'remove', { work: takeOut });
}

/** Puts a container into an empty slot, or beside those of a sandbox. Errors: as for swap; NAME_TAKEN. */
export async function insert(node: Node, request: SurgeryRequest, operation: Operation): Promise<Result> {
  if (request.name === '') throw new GantryError('USAGE', '--name is missing', { hint: 'the name of the slot' });
  const sandbox = await node.cri.findSandbox(request.target, operation.signal);
  const slots = (await node.slots.list()).filter(({ sandboxId }) => sandboxId === sandbox.id);
  const slot = slots.find(({ name }) => name === request.name);
  if (slot !== undefined) {
    if (slot.occupant !== '') throw taken(request.name, slot.id);
    if (slot.exit !== undefined) {
      throw new GantryError('NOT_RUNNING', `slot ${request.name} has been stopped by its client`, {
        hint: 'the client decides what comes next; kubelet makes a new container',
      });
    }
    return operate(node, { ...request, target: slot.id }, operation, 'insert');
  }
  const behind = new Set(slots.flatMap(({ occupant, hidden }) => [occupant, ...hidden]));
  const other = (await node.cri.listContainers(operation.signal)).find(
    ({ id, podSandboxId, metadata, state }) =>
      podSandboxId === sandbox.id &&
      metadata?.name === request.name &&
      state !== ContainerState.CONTAINER_EXITED &&
      !behind.has(id),
  );
  if (other !== undefined) throw taken(request.name, other.id);
  const { config: pod } = await node.cri.describeSandbox(sandbox.id, operation.signal);
  const extra = Slot.fromPartial({
    id: randomBytes(32).toString('hex'),
    sandboxId: sandbox.id,
    name: request.name,
    extra: true,
    config: Buffer.from(
      ContainerConfig.encode(extraConfig(request.name, pod, await graceIn(node, sandbox.id))).finish(),
    ),
  });
  return operate(node, request, operation, 'insert', { extra });
}

/** How long containers of a pod have for their end, as its client has noted it beside each. */
async function graceIn(node: Node, sandbox: string): Promise<Record<string, string>> {
  for (const { podSandboxId, annotations } of await node.cri.listContainers()) {
    const seconds = podSandboxId === sandbox ? annotations[GRACE_ANNOTATION] : undefined;
    if (seconds !== undefined) return { [GRACE_ANNOTATION]: seconds };
  }
  return {};
}

/** Exchanges one container for another. Errors: NOT_FOUND, NOT_RUNNING, SLOT_EMPTY, IMAGE_MISSING, BUSY, SWAP_FAILED. */
export async function swap(node: Node, request: SurgeryRequest, operation: Operation): Promise<Result> {
  return operate(node, request, operation, 'swap');
}

/** Brings back who was in the slot before. Errors: NOTHING_RETAINED, and as for swap. */
export async function rollback(node: Node, request: SurgeryRequest, operation: Operation): Promise<Result> {
  return operate(node, request, operation, 'rollback');
}

/**
 * What all four have in common: whom they are about, the key, the lock, the record, and the way back.
 *
 * @param options `work`: what takes the place of a change-over; `extra`: the slot that is to be made
 */
async function operate(
  node: Node,
  request: SurgeryRequest,
  operation: Operation,
  verb: Verb['verb'],
  options: { readonly work?: (place: Place) => Promise<number>; readonly extra?: Slot } = {},
): Promise<Result> {
  const { work, extra } = options;
  const key = request.key || operation.id;
  const before = await answered(node, key);
  if (before !== undefined) return result(node, before.slot, operation, before.changeOverMs);
  const located: Located = extra === undefined ? await locate(node, request.target, operation.signal) : { slot: extra };
  const sandbox = 'slot' in located ? located.slot.sandboxId : located.container.podSandboxId;
  const occupant = 'slot' in located ? located.slot.occupant : located.container.id;
  return alone(node, sandbox, occupant, operation, async () => {
    await using coming = await operation.phase('check', () => check(node, located, request, verb, operation));
    const { keepState: keepsState, who } = request;
    const begun = {
      verb,
      key,
      who,
      keepsState,
      attempt: verb === 'remove' ? 0 : await nextAttempt(node, sandbox),
      retainUntilUnixMs: Date.now() + request.retainSeconds * 1000,
    };
    const place = await (extra === undefined ? Place.open(node, located, begun) : Place.extra(node, extra, begun));
    let changeOverMs: number;
    try {
      changeOverMs = await (work?.(place) ?? changeOver(node, place, request, operation, coming));
    } catch (error) {
      // However long it takes: until then the record stands, and clients see the slot running.
      await operation.phase('undo', () =>
        untilDone(node, `undo ${verb}`, () => undo(node, place, messageOf(error)), operation),
      );
      throw error;
    }
    await place.sweep().catch((error: unknown) => node.log.warn('sweep-failed', { reason: messageOf(error) }));
    return result(node, place.slot, operation, changeOverMs);
  });
}

async function check(
  node: Node,
  located: Located,
  request: SurgeryRequest,
  verb: Verb['verb'],
  operation: Operation,
): Promise<Newcomer> {
  const slot = 'slot' in located ? located.slot : undefined;
  const name = slot?.name ?? ('container' in located ? (located.container.metadata?.name ?? '') : '');
  if (slot?.operation !== undefined) throw new GantryError('BUSY', `another operation works on ${name}`);
  const sandbox = slot?.sandboxId ?? ('container' in located ? located.container.podSandboxId : '');
  const { state } = await node.cri.describeSandbox(sandbox);
  if (state !== PodSandboxState.SANDBOX_READY)
    throw new GantryError('NOT_RUNNING', `the sandbox of ${name} is not ready`);
  const occupant = slot?.occupant ?? ('container' in located ? located.container.id : '');
  if (verb === 'remove' || verb === 'swap') {
    if (occupant === '') {
      throw new GantryError('SLOT_EMPTY', `nobody is in slot ${name}`, {
        hint: 'gantry insert puts a container there',
      });
    }
    // Nobody else clears away an extra one that has ended.
    const mayHaveEnded = verb === 'remove' && slot?.extra === true;
    if (!mayHaveEnded && !(await isRunning(node, occupant)))
      throw new GantryError('NOT_RUNNING', `container ${name} is not running`);
  }
  if (verb === 'remove') return newcomer({});
  const retained = slot?.retained;
  const named = [request.image, request.configJson, request.checkpoint].filter((one) => one !== '').length;
  if (verb === 'rollback' || (verb === 'insert' && named === 0 && retained !== undefined)) {
    if (retained === undefined || (await find(node, retained.containerId)) === undefined) {
      throw new GantryError('NOTHING_RETAINED', `nothing is retained of ${name}`, {
        hint: 'the time for a rollback is over, or nothing was ever changed: gantry inspect',
      });
    }
    return newcomer({ retained });
  }
  if (named === 0 && verb === 'swap')
    throw new GantryError('USAGE', 'what is to come? --image, --config or --checkpoint');
  if (named === 0 && slot?.extra === true)
    throw new GantryError('USAGE', 'an extra container needs --image or --config');
  const config = slot?.config ?? ContainerConfig.encode((await node.cri.describe(occupant)).config).finish();
  return newcomerFor(node, { sandbox, base: ContainerConfig.decode(config) }, request, operation);
}

/** The way from one occupant to the next. Returns for how long nobody served, in milliseconds. */
async function changeOver(
  node: Node,
  place: Place,
  request: SurgeryRequest,
  operation: Operation,
  newcomer: Newcomer,
): Promise<number> {
  const before = place.slot.occupant;
  const next = await operation.phase('prepare', () => prepare(node, place, newcomer, operation));
  const behind = [...new Set([...place.slot.hidden, next])];
  await place.put({ hidden: behind, images: await imagesOf(node, { ...place.slot, hidden: behind }) });
  operation.throwIfCancelled();
  const began = performance.now();
  await place.put({ phase: SlotPhase.CHANGING });
  await operation.phase('change over', async () => {
    await leave(node, place, request);
    await enter(node, place, operation, next, newcomer);
  });
  const changeOverMs = performance.now() - began;
  const hidden = [...place.slot.hidden.filter((id) => id !== next), ...(before === '' ? [] : [before])];
  await place.put({ phase: SlotPhase.TRYING, occupant: next, hidden });
  await operation.phase('try', () => staysRunning(node, next, request.settleMs, operation.signal));
  operation.commit();
  await place.settle({ retained: retainedBy(place), exit: undefined }, { result: 'done', changeOverMs });
  return changeOverMs;
}

async function prepare(node: Node, place: Place, newcomer: Newcomer, operation: Operation): Promise<string> {
  const { retained, config } = newcomer;
  const attempt = place.slot.operation?.attempt ?? 0;
  // After a reboot there is nothing left to be thawed.
  if (retained?.frozen === true && (await isRunning(node, retained.containerId))) return retained.containerId;
  if (retained === undefined) {
    if (config === undefined) throw new GantryError('INTERNAL', 'there is no configuration for the new container');
    const id = await create(node, place.slot, config, attempt, operation.signal);
    await newcomer.files?.(id);
    return id;
  }
  return again(node, place, retained.containerId, attempt);
}

/** A container cannot be started twice: another one is made from it, with the files that it has written. */
async function again(node: Node, place: Place, id: string, attempt: number): Promise<string> {
  const old = await find(node, id);
  const config = old?.config ?? ContainerConfig.decode(place.slot.config);
  const made = await create(node, place.slot, config, attempt);
  if (old !== undefined) await copyLayer(node, old, made);
  return made;
}

async function leave(node: Node, place: Place, request: SurgeryRequest): Promise<void> {
  const leaving = await find(node, place.slot.occupant);
  if (leaving?.state !== ContainerState.CONTAINER_RUNNING) return;
  if (request.keepState) await freezeOccupant(leaving);
  else await stopOccupant(node, leaving, request.graceSeconds);
}

async function enter(node: Node, place: Place, operation: Operation, id: string, newcomer: Newcomer): Promise<void> {
  if (newcomer.retained?.containerId === id) {
    const frozen = await find(node, id);
    if (frozen?.state !== ContainerState.CONTAINER_RUNNING) {
      throw new GantryError('SWAP_FAILED', `container ${id} has ended while it was frozen`);
    }
    await comeBack(node, frozen);
  } else if (newcomer.saved !== undefined) {
    await using poised = await PoisedContainer.restore(
      node,
      operation.id,
      { id, sandbox: place.slot.sandboxId },
      newcomer.saved,
      {
        tcp: newcomer.tcp ?? 'none',
      },
    );
    await poised.resume();
  } else {
    try {
      await node.cri.startContainer(id);
    } catch (error) {
      throw new GantryError('SWAP_FAILED', `the new container does not start: ${messageOf(error)}`, { cause: error });
    }
  }
}

/** As it was before the operation, as far as that is possible: also what a restarted agent does. */
export async function undo(node: Node, place: Place, result: string): Promise<void> {
  if (!(await place.refresh())) return; // its client has removed it, or the sandbox
  const { operation, occupant, hidden, retained } = place.slot;
  if (operation === undefined) return;
  if (place.isEnded || place.slot.exit !== undefined) {
    await end(node, place, result);
    return;
  }
  const { before } = operation;
  const wasPreparing = place.slot.phase === SlotPhase.SETTLED;
  const keeps = new Set([before, retained?.containerId]);
  const came = [...new Set([occupant, ...hidden, ...(await labelled(node, place.slot))])].filter(
    (id) => id !== '' && !keeps.has(id),
  );
  // Who was thawed for a rollback goes back into the ice.
  const thawed =
    retained?.frozen === true && retained.containerId !== before ? await find(node, retained.containerId) : undefined;
  if (thawed?.state === ContainerState.CONTAINER_RUNNING) await freezeOccupant(thawed);
  // Before anything is ended: what runs inside it is not to be told of.
  if (place.slot.phase === SlotPhase.TRYING) await place.put({ phase: SlotPhase.CHANGING });
  for (const id of came) await removeOccupant(node, id);
  const rest = retained === undefined || retained.containerId === before ? [] : [retained.containerId];
  if (before === '') {
    await place.settle({ occupant: '', hidden: rest }, { result });
    return;
  }
  const old = await find(node, before);
  // One who ended while the other was only being prepared has ended by itself, and its client is to see that.
  if (old !== undefined && (wasPreparing || old.state === ContainerState.CONTAINER_RUNNING)) {
    await comeBack(node, old);
    await place.settle({ occupant: before, hidden: rest }, { result });
    return;
  }
  if (old !== undefined && old.state !== ContainerState.CONTAINER_EXITED) await stopOccupant(node, old, 0);
  await place.put({ phase: SlotPhase.CHANGING, occupant: '', hidden: [...rest, before] });
  try {
    const made = await again(node, place, before, await nextAttempt(node, place.slot.sandboxId));
    await place.put({ hidden: [...place.slot.hidden, made] });
    await node.cri.startContainer(made);
    await place.settle(
      { occupant: made, hidden: [...rest, before] },
      { result: `${result}; the one before was started again` },
    );
  } catch (error) {
    // Nothing is left that could be brought back: its client is told that it has ended.
    for (const id of await labelled(node, place.slot)) if (!keeps.has(id)) await removeOccupant(node, id);
    await place.settle(
      { occupant: '', hidden: [...rest, before], exit: stoppedNow() },
      { result: `${result}; and the one before does not start: ${messageOf(error)}` },
    );
    node.log.error('slot-lost', { slot: place.slot.id, reason: messageOf(error) });
  }
  await place.sweep();
}

/** The way out when a client has stopped or removed the slot meanwhile: nobody is in it any more. */
async function end(node: Node, place: Place, result: string): Promise<void> {
  const { operation, occupant, hidden } = place.slot;
  const all = new Set([occupant, operation?.before ?? '', ...hidden, ...(await labelled(node, place.slot))]);
  for (const id of all) if (id !== '') await removeOccupant(node, id);
  if (place.isEnded) await node.slots.remove(place.slot);
  else
    await place.settle(
      { occupant: '', hidden: [], retained: undefined },
      { result: `${result}; its client has stopped it` },
    );
}

/** Containers that were made for a slot, by their label. */
async function labelled(node: Node, slot: Slot): Promise<string[]> {
  return (await node.cri.listContainers()).filter(({ labels }) => labels[SLOT_LABEL] === slot.id).map(({ id }) => id);
}

/** The one who was there before the operation. */
export function retainedBy({ slot: { operation, retained, occupant } }: Place): Retained | undefined {
  if (operation === undefined) return undefined;
  // One that was kept when the slot was emptied waits on, unless it is the one that has come.
  if (operation.before === '') return retained?.containerId === occupant ? undefined : retained;
  const { before, keepsState, retainUntilUnixMs } = operation;
  return { containerId: before, frozen: keepsState, untilUnixMs: retainUntilUnixMs, _unknownFields: {} };
}

/** What the operation with that key has done, if it has been carried out. */
async function answered(node: Node, key: string): Promise<{ slot: Slot; changeOverMs: number } | undefined> {
  for (const slot of await node.slots.list()) {
    const change = slot.history.find((one) => one.key === key && one.result === 'done');
    if (change !== undefined) return { slot, changeOverMs: change.changeOverMs };
  }
  return undefined;
}

function result(node: Node, slot: Slot, operation: Operation, changeOverMs: number): Result {
  return operation.result({
    containerId: slot.occupant,
    slotId: slot.extra ? '' : slot.id,
    sandboxId: slot.sandboxId,
    node: node.config.node,
    changeOverMs,
  });
}

function taken(name: string, id: string): GantryError {
  return new GantryError('NAME_TAKEN', `the sandbox has a container ${name} already: ${id.slice(0, 13)}`, {
    hint: 'gantry swap exchanges it; gantry remove takes it out',
  });
}

/**
 * Of a container that kubelet never sees: its namespaces are as the pod has them, its log lies beside those that kubelet
 * knows, and goes with the pod's.
 */
function extraConfig(name: string, { linux }: PodSandboxConfig, annotations: Record<string, string>): ContainerConfig {
  const namespaceOptions = linux?.securityContext?.namespaceOptions;
  return ContainerConfig.fromPartial({
    metadata: { name },
    logPath: `${name}.log`,
    annotations,
    linux: { securityContext: { ...(namespaceOptions !== undefined && { namespaceOptions }) } },
  });
}
