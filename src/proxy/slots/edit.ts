/**
 * Changes protobuf messages where they are, field by field: what is not named crosses as it came, whether it is known
 * or not, and nothing is decoded that does not change. (protobuf.dev, Encoding.)
 */

import { FieldCursor, LENGTH, VARINT } from '../wire.ts';

/** Where it ends. */
function writeVarint(into: Buffer, from: number, value: number): number {
  let at = from;
  let rest = value;
  while (rest >= 0x80) {
    into[at] = (rest % 0x80) | 0x80;
    at += 1;
    rest = Math.floor(rest / 0x80);
  }
  into[at] = rest;
  return at + 1;
}

function encodeVarint(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(10);
  return bytes.subarray(0, writeVarint(bytes, 0, value));
}

/** Tag and length of a length-delimited field. */
export function lengthHead(number: number, length: number): Buffer {
  const head = Buffer.allocUnsafe(2 * 10);
  const at = writeVarint(head, 0, number * 8 + LENGTH);
  return head.subarray(0, writeVarint(head, at, length));
}

/** One length-delimited field: a text, or a message. */
export function lengthField(number: number, value: Uint8Array | string): Buffer {
  const bytes = typeof value === 'string' ? Buffer.from(value) : value;
  return Buffer.concat([lengthHead(number, bytes.length), bytes]);
}

/** One field of a number that is not negative: an enum, an int32. */
export function numberField(number: number, value: number): Buffer {
  return Buffer.concat([encodeVarint(number * 8 + VARINT), encodeVarint(value)]);
}

/**
 * The message with each length-delimited field at that path replaced by what `change` makes of it: the same object to leave
 * it alone, undefined to leave it out. `[1, 2]` is field 2 of each message in field 1. Unchanged, it is the same object.
 */
export function edit(
  message: Uint8Array,
  path: readonly number[],
  change: (value: Uint8Array) => Uint8Array | undefined,
): Uint8Array {
  const [number, ...rest] = path;
  let parts: Uint8Array[] | undefined;
  let copied = 0;
  for (const field = new FieldCursor(message); field.next(); ) {
    if (field.number !== number || field.wireType !== LENGTH) continue;
    const before = message.subarray(field.value, field.end);
    const after = rest.length === 0 ? change(before) : edit(before, rest, change);
    if (after === before) continue;
    parts ??= [];
    parts.push(message.subarray(copied, field.start));
    if (after !== undefined) parts.push(lengthField(number, after));
    copied = field.end;
  }
  if (parts === undefined) return message;
  parts.push(message.subarray(copied));
  return Buffer.concat(parts);
}

/** Only the fields with a number that `renumbered` knows, under the number that it gives. */
export function renumbered(message: Uint8Array, numbers: Readonly<Record<number, number>>): Buffer {
  const parts: Uint8Array[] = [];
  for (const field = new FieldCursor(message); field.next(); ) {
    const number = numbers[field.number];
    if (number === undefined) continue;
    const value = message.subarray(field.value, field.end);
    if (field.wireType === LENGTH) parts.push(lengthField(number, value));
    else parts.push(encodeVarint(number * 8 + field.wireType), value);
  }
  return Buffer.concat(parts);
}

/** The fields whose numbers `isWanted` says yes to. */
export function filtered(message: Uint8Array, isWanted: (number: number) => boolean): Buffer {
  const parts: Uint8Array[] = [];
  for (const field = new FieldCursor(message); field.next(); ) {
    if (isWanted(field.number)) parts.push(message.subarray(field.start, field.end));
  }
  return Buffer.concat(parts);
}

/** The value of the last varint field of that number, as far as it is a safe integer; 0 when there is none. */
export function numberAt(message: Uint8Array, number: number): number {
  let found = 0;
  for (const field = new FieldCursor(message); field.next(); ) {
    if (field.number !== number || field.wireType !== VARINT) continue;
    found = 0;
    for (let at = field.end - 1; at >= field.value; at--) found = found * 0x80 + ((message[at] ?? 0) & 0x7f);
  }
  return found;
}

/** The text of the first length-delimited field of that number; "" when there is none. */
export function textIn(message: Uint8Array, number: number): string {
  for (const field = new FieldCursor(message); field.next(); ) {
    if (field.number === number && field.wireType === LENGTH) {
      return Buffer.from(message.buffer, message.byteOffset + field.value, field.end - field.value).toString();
    }
  }
  return '';
}

/** A map of texts to texts: field `number` of a message. */
export function textMapIn(message: Uint8Array, number: number): Map<string, string> {
  const map = new Map<string, string>();
  for (const field = new FieldCursor(message); field.next(); ) {
    if (field.number !== number || field.wireType !== LENGTH) continue;
    const entry = message.subarray(field.value, field.end);
    map.set(textIn(entry, 1), textIn(entry, 2));
  }
  return map;
}
