import type { Pass } from '../intercept/interceptor.ts';
import { FieldCursor, fieldsOf, LENGTH } from '../wire.ts';
import { lengthField, lengthHead, numberAt, textIn, textMapIn } from './edit.ts';
import type { Face } from './face.ts';
import { SLOT_LABEL } from './label.ts';
import type { Role, SlotTable } from './table.ts';

const FILTER = 1;
const ITEMS = 1;
const EMPTY = new Uint8Array();

/** What is listed: containers, or their statistics. Field numbers of runtime.v1. */
interface Kind {
  readonly filter: { readonly id: number; readonly state?: number; readonly sandbox: number; readonly labels: number };
  /** Of the item between two offsets. */
  id(list: Buffer, from: number, to: number): string;
  labels(item: Uint8Array): ReadonlyMap<string, string>;
  /** undefined when nothing can be shown without an occupant */
  render(face: Face, real: Uint8Array | undefined): Uint8Array | undefined;
}

const CONTAINER_STATE = 6;

const CONTAINERS: Kind = {
  filter: { id: 1, state: 2, sandbox: 3, labels: 4 },
  id: firstText,
  labels: (item) => textMapIn(item, 8),
  render: (face, real) => face.container(real && numberAt(real, CONTAINER_STATE)),
};

const STATS: Kind = {
  filter: { id: 1, sandbox: 2, labels: 3 },
  id(list, from, to) {
    for (const field = new FieldCursor(list, from, to); field.next(); ) {
      if (field.number === 1) return firstText(list, field.value, field.end); // of its attributes
    }
    return '';
  },
  labels: (item) => textMapIn(first(item, 1), 3),
  render: (face, real) => real && face.stats(real),
};

/** Field 1, which encoders write first. */
function firstText(list: Buffer, from: number, to: number): string {
  for (const field = new FieldCursor(list, from, to); field.next(); ) {
    if (field.number === 1) return list.toString('latin1', field.value, field.end);
  }
  return '';
}

const KINDS: Readonly<Record<string, Kind>> = {
  ListContainers: CONTAINERS,
  StreamContainers: CONTAINERS,
  ListContainerStats: STATS,
  StreamContainerStats: STATS,
};

export function listingOf(method: string): Kind | undefined {
  return KINDS[method];
}

/** One list, in one message or a stream of them: slots in the place of their occupants, also those that have none. */
export class Listing {
  readonly #table: SlotTable;
  readonly #kind: Kind;
  readonly #request: Uint8Array;
  readonly #id: string;
  readonly #sandbox: string;
  readonly #state: number | undefined;
  readonly #labels: ReadonlyMap<string, string>;
  // What the runtime is asked for is more than what the client wants, who is virtual as far as filters go.
  readonly #isWidened: boolean;
  readonly #shown = new Set<string>();

  constructor(table: SlotTable, kind: Kind, request: Uint8Array) {
    const { filter } = kind;
    const asked = first(request, FILTER);
    this.#table = table;
    this.#kind = kind;
    this.#id = textIn(asked, filter.id);
    this.#sandbox = textIn(asked, filter.sandbox);
    this.#labels = textMapIn(asked, filter.labels);
    let state: number | undefined;
    for (const value of filter.state === undefined ? [] : fieldsOf(asked, filter.state)) state = numberAt(value, 1);
    this.#state = state;
    const isMeant = this.#id !== '' && Array.from(table.faces).some(({ slot }) => slot.id.startsWith(this.#id));
    this.#isWidened = isMeant || (this.#id === '' && (state !== undefined || this.#labels.size > 0));
    const sandbox = this.#sandbox === '' ? EMPTY : lengthField(filter.sandbox, this.#sandbox);
    this.#request = this.#isWidened ? lengthField(FILTER, sandbox) : request;
  }

  /** @param streams the answer may come in several messages, and none */
  pass(streams: boolean): Pass {
    const rewriter = streams
      ? { message: (bytes: Uint8Array) => this.#rewrite(bytes), end: () => this.#missing() }
      : { message: (bytes: Uint8Array) => joined(this.#rewrite(bytes), this.#missing()) };
    return { kind: 'pass', request: this.#request, rewriter };
  }

  /** What does not change is copied in as few pieces as possible. */
  #rewrite(bytes: Uint8Array): Uint8Array {
    const list = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    const parts: Uint8Array[] = [];
    let copied = 0;
    for (const item = new FieldCursor(list); item.next(); ) {
      if (item.number !== ITEMS || item.wireType !== LENGTH) continue;
      const role = this.#table.role(this.#kind.id(list, item.value, item.end));
      if (role === undefined && !this.#isWidened && !this.#table.isUnsettled) continue;
      const before = list.subarray(item.value, item.end);
      const after = this.#shownFor(role, before);
      if (after === before) continue;
      if (item.start > copied) parts.push(list.subarray(copied, item.start));
      if (after !== undefined) parts.push(lengthHead(ITEMS, after.length), after);
      copied = item.end;
    }
    if (copied === 0) return bytes;
    parts.push(list.subarray(copied));
    return Buffer.concat(parts);
  }

  #shownFor(role: Role | undefined, item: Uint8Array): Uint8Array | undefined {
    if (role?.kind === 'hidden') return undefined;
    if (role !== undefined) return this.#render(role.face, item);
    const labels = this.#kind.labels(item);
    if (this.#table.isUnsettled && labels.has(SLOT_LABEL)) return undefined;
    return this.#isWidened && !this.#isWanted(this.#idOf(item), item, labels) ? undefined : item;
  }

  #idOf(item: Uint8Array): string {
    return this.#kind.id(Buffer.from(item.buffer, item.byteOffset, item.length), 0, item.length);
  }

  /** The slots whose occupant has not been in the answer: there is none, or it has come since the runtime looked. */
  #missing(): Uint8Array | undefined {
    const items: Uint8Array[] = [];
    for (const face of this.#table.faces) {
      if (face.slot.extra || this.#shown.has(face.slot.id)) continue;
      const item = this.#render(face, undefined);
      if (item !== undefined) items.push(lengthField(ITEMS, item));
    }
    return items.length === 0 ? undefined : Buffer.concat(items);
  }

  #render(face: Face, real: Uint8Array | undefined): Uint8Array | undefined {
    this.#shown.add(face.slot.id);
    const { id, sandboxId } = face.slot;
    if (this.#sandbox !== '' && !sandboxId.startsWith(this.#sandbox)) return undefined;
    const item = this.#kind.render(face, real);
    return item !== undefined && this.#isWanted(id, item, face.labels) ? item : undefined;
  }

  #isWanted(id: string, item: Uint8Array, labels: ReadonlyMap<string, string>): boolean {
    if (this.#id !== '' && !id.startsWith(this.#id)) return false;
    if (this.#state !== undefined && numberAt(item, CONTAINER_STATE) !== this.#state) return false;
    for (const [name, value] of this.#labels) if (labels.get(name) !== value) return false;
    return true;
  }
}

function joined(list: Uint8Array, more: Uint8Array | undefined): Uint8Array {
  return more === undefined ? list : Buffer.concat([list, more]);
}

function first(message: Uint8Array, number: number): Uint8Array {
  for (const value of fieldsOf(message, number)) return value;
  return EMPTY;
}
