import type { Messages } from '../gen/criu.ts';
import { COMMON_MAGIC, describe, type EntryOf, type HeadOf, type Kind, SERVICE_MAGIC } from './kinds.ts';
import { messageType } from './messages.ts';

const PIECE_ENTRIES = 2048;
export const NOTHING = new Uint8Array(0);

export type Known<T> = T extends (infer U)[] ? Known<U>[] : { readonly [P in keyof T]?: unknown };

/** One entry: its length, the message, and what follows it. */
export function encodeEntry<N extends keyof Messages>(
  name: N,
  entry: Known<Messages[N]>,
  extra: Uint8Array = NOTHING,
): Buffer {
  const type = messageType(name);
  const message = Buffer.from(type.encode(type.fromObject(plain(entry) as object)).finish());
  return Buffer.concat([u32(message.length), message, extra]);
}

interface Around<K extends Kind> {
  head?: Known<HeadOf<K>>;
  /** Raw bytes behind each of the entries. */
  extras?: readonly Uint8Array[];
}

/** A whole image. */
export function encodeImage<K extends Kind>(
  kind: K,
  entries: Iterable<Known<EntryOf<K>>>,
  around: Around<K> = {},
): Buffer {
  return Buffer.concat([...encodedImage(kind, entries, around)]);
}

/** The same, in pieces of some size, for one with more entries than anybody wants to hold. */
export function* encodedImage<K extends Kind>(
  kind: K,
  entries: Iterable<Known<EntryOf<K>>>,
  { head, extras = [] }: Around<K> = {},
): Generator<Buffer, void> {
  const { magic, message, head: headMessage, service } = describe(kind);
  let piece = kind === 'INVENTORY' ? [] : [u32(service ? SERVICE_MAGIC : COMMON_MAGIC)];
  piece.push(u32(magic));
  if (headMessage !== undefined) piece.push(encodeEntry(headMessage, head ?? {}));
  let index = 0;
  for (const entry of entries) {
    piece.push(encodeEntry(message, entry, extras[index++]));
    if (piece.length < PIECE_ENTRIES) continue;
    yield Buffer.concat(piece);
    piece = [];
  }
  yield Buffer.concat(piece);
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** protobufjs takes 64-bit numbers by their halves. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint')
    return { low: Number(BigInt.asIntN(32, value)), high: Number(BigInt.asIntN(32, value >> 32n)) };
  if (value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, plain(field)]));
}
