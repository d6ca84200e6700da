import type { Messages } from '../gen/criu.ts';
import { COMMON_MAGIC, describe, type EntryOf, type HeadOf, type Kind, SERVICE_MAGIC } from './kinds.ts';
import { messageType } from './messages.ts';

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

/** A whole image. @param extras raw bytes behind each of the entries */
export function encodeImage<K extends Kind>(
  kind: K,
  entries: readonly Known<EntryOf<K>>[],
  { head, extras = [] }: { head?: Known<HeadOf<K>>; extras?: readonly Uint8Array[] } = {},
): Buffer {
  const { magic, message, head: headMessage, service } = describe(kind);
  const first = headMessage === undefined ? NOTHING : encodeEntry(headMessage, head ?? {});
  return Buffer.concat([
    ...(kind === 'INVENTORY' ? [] : [u32(service ? SERVICE_MAGIC : COMMON_MAGIC)]),
    u32(magic),
    first,
    ...entries.map((entry, index) => encodeEntry(message, entry, extras[index])),
  ]);
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** protobufjs takes 64-bit numbers as text. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return String(value);
  if (value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, plain(field)]));
}
