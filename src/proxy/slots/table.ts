import { readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { exists, makePrivateFolder, removeDurably, writeDurably } from '../../durable.ts';
import { GantryError, messageOf } from '../../errors.ts';
import { Slot, SlotPhase } from '../../gen/gantry/v1/slots.ts';
import type { Log } from '../../log.ts';
import { Face } from './face.ts';

const SUFFIX = '.slot';
const ID = /^[0-9a-f]{64}$/;
/** Real IDs of containers that belonged to a slot and are gone: events about them may still be on their way. */
const MOST_GONE = 1000;

/** What a real ID is to clients of the CRI. */
export type Role = { readonly kind: 'occupant'; readonly face: Face } | { readonly kind: 'hidden' };

const HIDDEN: Role = { kind: 'hidden' };

/**
 * The slots of a node: one durable file each, and what follows from them for every answer. The relay is the only one who
 * writes them; whoever wants to change one says which revision it has seen.
 */
export class SlotTable {
  readonly #folder: string;
  readonly #faces = new Map<string, Face>();
  readonly #roles = new Map<string, Role>();
  readonly #gone = new Set<string>();
  readonly #images = new Set<string>();
  #isUnsettled = false;
  #tail: Promise<unknown> = Promise.resolve();
  #settled = Promise.withResolvers<void>();

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Reads every slot, before the first call is taken. A file that cannot be read is set aside: the node needs its runtime. */
  static async open(folder: string, log: Log): Promise<SlotTable> {
    const table = new SlotTable(folder);
    for (const name of (await exists(folder)) ? await readdir(folder) : []) {
      const file = join(folder, name);
      if (name.endsWith('.new')) await rm(file, { force: true });
      if (!name.endsWith(SUFFIX)) continue;
      try {
        const slot = Slot.decode(await readFile(file));
        if (`${slot.id}${SUFFIX}` !== name) throw new Error(`it is slot "${slot.id}"`);
        table.#faces.set(slot.id, new Face(slot));
      } catch (error) {
        await rename(file, `${file}.bad`);
        log.error('slot-unreadable', { file: `${file}.bad`, reason: messageOf(error) });
      }
    }
    table.#index();
    return table;
  }

  /** Whether anything on this node is not what it seems. */
  get isEmpty(): boolean {
    return this.#faces.size === 0;
  }

  /** Whether containers may be there that are known by their label alone. */
  get isUnsettled(): boolean {
    return this.#isUnsettled;
  }

  get faces(): Iterable<Face> {
    return this.#faces.values();
  }

  slots(): Slot[] {
    return Array.from(this.#faces.values(), ({ slot }) => slot);
  }

  /** The slot that clients know by that ID. */
  face(id: string): Face | undefined {
    const face = this.#faces.get(id);
    return face?.slot.extra === true ? undefined : face;
  }

  phase(id: string): number | undefined {
    return this.#faces.get(id)?.slot.phase;
  }

  role(realId: string): Role | undefined {
    // The container that a slot is named after is another one than the slot, once it has left.
    return this.#roles.get(realId) ?? (this.#faces.has(realId) || this.#gone.has(realId) ? HIDDEN : undefined);
  }

  /** A container of Gantry's that the table was not told of: nobody is to hear of its end, either. */
  noteStray(realId: string): void {
    if (!this.#roles.has(realId)) this.#gone.add(realId);
  }

  /** Whether a container of a slot needs the image of that ID. */
  isNeeded(image: string): boolean {
    return this.#images.has(image);
  }

  /** Resolves when the slot is no longer between two occupants, or is gone. Rejects with the signal's reason. */
  async changed(id: string, signal: AbortSignal): Promise<void> {
    const aborted = Promise.withResolvers<never>();
    const abort = () => aborted.reject(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
    aborted.promise.catch(() => undefined);
    try {
      while (this.#faces.get(id)?.slot.phase === SlotPhase.CHANGING)
        await Promise.race([this.#settled.promise, aborted.promise]);
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  /** Makes or changes a slot. Errors: USAGE; CONFLICT, when `slot.revision` is not the one it has. */
  put(slot: Slot): Promise<Slot> {
    return this.#inTurn(async () => {
      if (!ID.test(slot.id)) throw new GantryError('USAGE', `"${slot.id}" is no ID of a slot`);
      this.#check(slot.id, slot.revision);
      for (const id of [slot.occupant, ...slot.hidden]) this.#checkFree(slot, id);
      const next: Slot = { ...slot, revision: slot.revision + 1 };
      await makePrivateFolder(this.#folder);
      await writeDurably(this.#file(slot.id), Slot.encode(next).finish());
      this.#faces.set(slot.id, new Face(next));
      this.#index();
      return next;
    });
  }

  /** Changes the slot that there is now, without a look at its revision: for what a client of the CRI does to it. */
  update(id: string, change: (slot: Slot) => Slot): Promise<void> {
    return this.#inTurn(async () => {
      const face = this.#faces.get(id);
      if (face === undefined) return;
      const next = { ...change(face.slot), revision: face.slot.revision + 1 };
      await writeDurably(this.#file(id), Slot.encode(next).finish());
      this.#faces.set(id, new Face(next));
      this.#index();
    });
  }

  /** Ends a slot. Unknown ones are no error. Errors: CONFLICT. @param revision undefined: whatever it is */
  remove(id: string, revision?: number): Promise<void> {
    return this.#inTurn(async () => {
      if (!this.#faces.has(id)) return;
      if (revision !== undefined) this.#check(id, revision);
      await removeDurably(this.#file(id));
      this.#faces.delete(id);
      this.#index(id);
    });
  }

  /** A client has removed it. Who is left behind it is not seen, and there for the agent to clear away. */
  end(id: string): Promise<void> {
    const hidden = this.#faces.get(id)?.slot.hidden ?? [];
    if (hidden.length === 0) return this.remove(id);
    return this.update(id, (slot) => ({ ...slot, extra: true, occupant: '', retained: undefined }));
  }

  #check(id: string, revision: number): void {
    const now = this.#faces.get(id)?.slot.revision ?? 0;
    if (now === revision) return;
    throw new GantryError('CONFLICT', `slot ${id} has been changed meanwhile (revision ${now}, not ${revision})`, {
      hint: 'look at it again: gantry ps',
    });
  }

  #checkFree({ id }: Slot, realId: string): void {
    for (const { slot } of this.#faces.values()) {
      if (slot.id === id || realId === '') continue;
      if (slot.occupant === realId || slot.hidden.includes(realId)) {
        throw new GantryError('CONFLICT', `container ${realId} belongs to slot ${slot.id}`);
      }
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#tail.then(work);
    this.#tail = turn.catch(() => undefined);
    return turn;
  }

  /** @param ended a slot that is no more: the container of the same ID, if it is still there, is seen again */
  #index(ended?: string): void {
    const before = [...this.#roles.keys()];
    this.#roles.clear();
    this.#images.clear();
    this.#isUnsettled = false;
    for (const face of this.#faces.values()) {
      const { slot } = face;
      for (const image of slot.images) this.#images.add(image);
      for (const id of slot.hidden) this.#roles.set(id, HIDDEN);
      if (slot.occupant !== '') this.#roles.set(slot.occupant, slot.extra ? HIDDEN : { kind: 'occupant', face });
      if (slot.operation !== undefined) this.#isUnsettled = true;
    }
    for (const id of before) if (!this.#roles.has(id) && id !== ended) this.#gone.add(id);
    for (const id of this.#gone) if (this.#roles.has(id) || this.#gone.size > MOST_GONE) this.#gone.delete(id);
    this.#settled.resolve();
    this.#settled = Promise.withResolvers<void>();
  }

  #file(id: string): string {
    return join(this.#folder, `${id}${SUFFIX}`);
  }
}
