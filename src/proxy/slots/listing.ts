import type { Pass } from '../intercept/interceptor.ts';
import { fieldsOf } from '../wire.ts';
import { edit, lengthField, numberAt, textIn, textMapIn } from './edit.ts';
import type { Face } from './face.ts';
import { SLOT_LABEL } from './label.ts';
import type { SlotTable } from './table.ts';

const FILTER = 1;
const ITEMS = 1;
const EMPTY = new Uint8Array();

/** What is listed: containers, or their statistics. Field numbers of runtime.v1. */
interface Kind {
  readonly filter: { readonly id: number; readonly state?: number; readonly sandbox: number; readonly labels: number };
  id(item: Uint8Array): string;
  labels(item: Uint8Array): ReadonlyMap<string, string>;
  /** undefined when nothing can be shown without an occupant */
  render(face: Face, real: Uint8Array | undefined): Uint8Array | undefined;
}

const CONTAINERS: Kind = {
  filter: { id: 1, state: 2, sandbox: 3, labels: 4 },
  id: (item) => textIn(item, 1),
  labels: (item) => textMapIn(item, 8),
  render: (face, real) => face.container(real),
};
const CONTAINER_STATE = 6;

const attributes = (item: Uint8Array): Uint8Array => first(item, 1);
const STATS: Kind = {
  filter: { id: 1, sandbox: 2, labels: 3 },
  id: (item) => textIn(attributes(item), 1),
  labels: (item) => textMapIn(attributes(item), 3),
  render: (face, real) => real && face.stats(real),
};

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

  #rewrite(bytes: Uint8Array): Uint8Array {
    const kind = this.#kind;
    return edit(bytes, [ITEMS], (item) => {
      const id = kind.id(item);
      const role = this.#table.role(id);
      if (role === undefined) {
        if (this.#table.isUnsettled && kind.labels(item).has(SLOT_LABEL)) return undefined;
        return this.#isWidened && !this.#isWanted(id, item, kind.labels(item)) ? undefined : item;
      }
      return role.kind === 'hidden' ? undefined : this.#render(role.face, item);
    });
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
