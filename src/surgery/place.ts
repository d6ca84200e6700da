import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { makePrivateFolder } from '../durable.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerConfig, ContainerState, ContainerStatus } from '../gen/cri.ts';
import { Slot, SlotChange, SlotPhase } from '../gen/gantry/v1/slots.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import type { Located } from './locate.ts';
import { find, removeOccupant } from './occupants.ts';

const MOST_HISTORY = 50;

export interface Verb {
  readonly verb: 'remove' | 'insert' | 'swap' | 'rollback';
  readonly key: string;
  readonly who: string;
  readonly attempt: number;
  readonly keepsState: boolean;
  readonly retainUntilUnixMs: number;
}

/** A slot that one operation works on. Each step is durable at the relay, and in force for its clients, before the next. */
export class Place {
  readonly #node: Node;
  #slot: Slot;
  readonly #isNew: boolean;

  private constructor(node: Node, slot: Slot, isNew: boolean) {
    this.#node = node;
    this.#slot = slot;
    this.#isNew = isNew;
  }

  /** Opens a slot, or makes one of a container that runs; the record of the operation is there before anything else. */
  static async open(node: Node, located: Located, verb: Verb): Promise<Place> {
    const isNew = 'container' in located;
    const place = new Place(node, isNew ? await newSlot(node, located.container.id) : located.slot, isNew);
    // What it was located by may have been reconciled since.
    if (!isNew && !(await place.refresh())) throw new GantryError('NOT_FOUND', `slot ${place.slot.name} is no more`);
    await place.begin(verb);
    return place;
  }

  /** Makes a slot that no client sees. */
  static async extra(node: Node, slot: Slot, verb: Verb): Promise<Place> {
    const place = new Place(node, slot, true);
    await place.begin(verb);
    return place;
  }

  /** A slot as it was found after a crash. */
  static found(node: Node, slot: Slot): Place {
    return new Place(node, slot, false);
  }

  get slot(): Slot {
    return this.#slot;
  }

  /** Its client has removed it; what is left of it is hidden until it is cleared away. */
  get isEnded(): boolean {
    return this.#slot.extra && this.#slot.face.length > 0;
  }

  async begin(verb: Verb): Promise<void> {
    if (this.#slot.operation !== undefined) {
      throw new GantryError('BUSY', `another operation (${this.#slot.operation.verb}) works on ${this.#slot.name}`);
    }
    const operation = { ...verb, startedUnixMs: Date.now(), before: this.#slot.occupant, _unknownFields: {} };
    await this.put({ operation });
  }

  /** Reads it again: a client may have changed it. False when it is no more. */
  async refresh(): Promise<boolean> {
    const now = (await this.#node.slots.list()).find(({ id }) => id === this.#slot.id);
    if (now !== undefined) this.#slot = now;
    return now !== undefined;
  }

  async put(fields: Partial<Slot>): Promise<void> {
    this.#slot = await this.#node.slots.put({ ...this.#slot, ...fields });
  }

  /** The operation is over: with its result it becomes history. A slot that is as if nothing had happened goes. */
  async settle(fields: Partial<Slot>, outcome: { result: string; changeOverMs?: number }): Promise<void> {
    const { operation } = this.#slot;
    const after = fields.occupant ?? this.#slot.occupant;
    const change = SlotChange.fromPartial({
      ...operation,
      ...outcome,
      durationMs: Date.now() - (operation?.startedUnixMs ?? Date.now()),
      after,
      image: imageOf(await find(this.#node, after)),
    });
    await audit(this.#node, this.#slot, change);
    if (this.#slot.extra && after === '') {
      for (const id of fields.hidden ?? this.#slot.hidden) await removeOccupant(this.#node, id);
      await this.#node.slots.remove(this.#slot);
      return;
    }
    const isUntouched = outcome.result !== 'done' && this.#isNew && after === this.#slot.id;
    if (isUntouched) {
      await this.#node.slots.remove(this.#slot);
      return;
    }
    await this.put({
      phase: SlotPhase.SETTLED,
      ...fields,
      operation: undefined,
      history: [...this.#slot.history, change].slice(-MOST_HISTORY),
    });
  }

  /** Removes those who wait behind the slot and are no longer needed. Only when it is settled. */
  async sweep(): Promise<void> {
    const needed = this.#slot.retained?.containerId;
    const gone = this.#slot.hidden.filter((id) => id !== needed && id !== this.#slot.occupant);
    for (const id of gone) await removeOccupant(this.#node, id);
    const hidden = this.#slot.hidden.filter((id) => !gone.includes(id));
    if (gone.length > 0) await this.put({ hidden, images: await imagesOf(this.#node, this.#slot) });
  }
}

async function newSlot(node: Node, id: string): Promise<Slot> {
  const { status } = await node.cri.containerStatus(id);
  const detail = await node.cri.describe(id);
  if (status === undefined || detail.state !== ContainerState.CONTAINER_RUNNING) {
    throw new GantryError('NOT_RUNNING', `container ${detail.name} (${id.slice(0, 13)}) is not running`, {
      hint: 'its client may start another one in its place any time',
    });
  }
  return Slot.fromPartial({
    id,
    sandboxId: detail.sandbox.id,
    name: detail.name,
    occupant: id,
    face: Buffer.from(ContainerStatus.encode(status).finish()),
    config: Buffer.from(ContainerConfig.encode(detail.config).finish()),
  });
}

/** As it was named, if that is known: the runtime tells one name of several. */
function imageOf(container: ContainerDetail | undefined): string {
  return container?.config.image?.userSpecifiedImage || container?.image || '';
}

/** IDs of the images of all containers of a slot. */
export async function imagesOf(node: Node, { occupant, hidden }: Slot): Promise<string[]> {
  const details = await Promise.all([occupant, ...hidden].map((id) => find(node, id)));
  const refs = details.flatMap((detail) => (detail === undefined ? [] : [detail.imageRef]));
  const ids = await Promise.all(refs.map(async (ref) => (await node.cri.imageStatus(ref)).image?.id ?? ref));
  return [...new Set(ids)];
}

/** Who did what, when, to what end: one line of JSON each, in a file that is only appended to. */
async function audit(node: Node, slot: Slot, { _unknownFields, ...change }: SlotChange): Promise<void> {
  const { config, log } = node;
  const line = { time: new Date().toISOString(), slot: slot.id, sandbox: slot.sandboxId, name: slot.name, ...change };
  log.info('slot-changed', line);
  try {
    await makePrivateFolder(config.stateDir);
    await appendFile(join(config.stateDir, 'audit.jsonl'), `${JSON.stringify(line)}\n`, { mode: 0o600, flush: true });
  } catch (error) {
    log.error('audit-failed', { reason: messageOf(error) });
  }
}

/** Runs one operation on a sandbox, and none beside it, nor on its container. Errors: BUSY. */
export async function alone<T>(
  node: Node,
  sandbox: string,
  container: string,
  operation: Operation,
  work: () => Promise<T>,
): Promise<T> {
  for (let over = node.reconciling.get(sandbox); over !== undefined; over = node.reconciling.get(sandbox)) await over;
  if (node.busy.has(sandbox) || node.busy.has(container)) {
    throw new GantryError('BUSY', `another operation works on sandbox ${sandbox.slice(0, 13)}`, {
      hint: 'wait until it is done: gantry ps',
    });
  }
  operation.throwIfCancelled();
  node.busy.add(sandbox);
  try {
    return await work();
  } finally {
    node.busy.delete(sandbox);
  }
}
