import type { GradualRewriter, Pass } from '../intercept/interceptor.ts';
import { FieldCursor, fieldsOf, LENGTH } from '../wire.ts';
import { lengthField, lengthHead, numberAt, textIn, textMapIn } from './edit.ts';
import type { Face } from './face.ts';
import { SLOT_LABEL } from './label.ts';
import type { Role, SlotTable } from './table.ts';

const FILTER = 1;
const ITEMS = 1;
const EMPTY = new Uint8Array();

const NO_BYTES = Buffer.alloc(0);
/** For slots that are made or changed while the answer comes: each adds what its face has more than its occupant. */
const SPARE_BYTES = 4096;
/** Tag and length of an item. */
const MOST_HEAD_BYTES = 6;
/** The largest number that a field can have: no definition of the CRI will get there. */
const FILL = 2 ** 29 - 1;
/** Its tag, and a length that is always written in five bytes. */
const LEAST_FILL_BYTES = 10;

/** What is listed: containers, or their statistics. Field numbers of runtime.v1. */
interface Kind {
  readonly filter: { readonly id: number; readonly state?: number; readonly sandbox: number; readonly labels: number };
  /** Of the item between two offsets. */
  id(list: Buffer, from: number, to: number): string;
  labels(item: Uint8Array): ReadonlyMap<string, string>;
  /** Of what stands in a list for that slot, beyond what the runtime had in its place; in bytes. */
  most(face: Face): number;
  /** undefined when nothing can be shown without an occupant */
  render(face: Face, real: Uint8Array | undefined): Uint8Array | undefined;
}

const CONTAINER_STATE = 6;
/** A state, of whatever number. */
const MOST_STATE_BYTES = 12;

const CONTAINERS: Kind = {
  filter: { id: 1, state: 2, sandbox: 3, labels: 4 },
  id: firstText,
  labels: (item) => textMapIn(item, 8),
  most: (face) => face.container(undefined).length + MOST_STATE_BYTES,
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
  most: (face) => face.stats(undefined).length,
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
      : {
          message: (bytes: Uint8Array) => joined(this.#rewrite(bytes), this.#missing()),
          gradual: (length: number) => this.#gradual(length),
        };
    return { kind: 'pass', request: this.#request, rewriter };
  }

  /**
   * The length of an answer comes before it, and how long it will be is known when it has been read. So it is said to be as
   * long as it can become at most, and what is missing at the end is filled up with a field that nobody knows.
   */
  #gradual(length: number): GradualRewriter {
    const known = new Set(Array.from(this.#table.faces, ({ slot }) => slot.id));
    const faces = Array.from(this.#table.faces, (face) => this.#kind.most(face) + MOST_HEAD_BYTES);
    const most = length + faces.reduce((sum, bytes) => sum + bytes, SPARE_BYTES);
    let sent = 0;
    let before: Buffer = NO_BYTES; // the beginning of an item that was cut in two
    const send = (bytes: Buffer): Buffer => {
      sent += bytes.length;
      return bytes;
    };
    return {
      length: most,
      change: (bytes) => {
        const list = before.length === 0 ? bytes : Buffer.concat([before, bytes]);
        const whole = endOfLast(list);
        before = Buffer.from(list.subarray(whole));
        const part = list.subarray(0, whole);
        const after = this.#rewrite(part);
        return send(after === part ? part : Buffer.from(after.buffer, after.byteOffset, after.length));
      },
      rest: () => {
        const last = send(Buffer.concat([before, this.#missing(known) ?? NO_BYTES]));
        return Buffer.concat([last, fill(most - sent)]);
      },
    };
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

  /** The slots whose occupant has not been in the answer: there is none, or it has come since the runtime looked. @param known only of these */
  #missing(known?: ReadonlySet<string>): Uint8Array | undefined {
    const items: Uint8Array[] = [];
    for (const face of this.#table.faces) {
      if (face.slot.extra || this.#shown.has(face.slot.id) || known?.has(face.slot.id) === false) continue;
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

/** Where the last field ends that is whole. */
function endOfLast(list: Buffer): number {
  let end = 0;
  for (const field = new FieldCursor(list); field.next(); ) end = field.end;
  return end;
}

/** One field of exactly so many bytes. */
function fill(length: number): Buffer {
  if (length < LEAST_FILL_BYTES) throw new Error(`the list has grown by ${-length} bytes more than it could`);
  const bytes = Buffer.alloc(length);
  bytes.set(lengthHead(FILL, 0).subarray(0, 5));
  let rest = length - LEAST_FILL_BYTES;
  for (let at = 5; at < LEAST_FILL_BYTES; at++, rest >>>= 7)
    bytes[at] = (rest & 0x7f) | (at < LEAST_FILL_BYTES - 1 ? 0x80 : 0);
  return bytes;
}

function joined(list: Uint8Array, more: Uint8Array | undefined): Uint8Array {
  return more === undefined ? list : Buffer.concat([list, more]);
}

function first(message: Uint8Array, number: number): Uint8Array {
  for (const value of fieldsOf(message, number)) return value;
  return EMPTY;
}
