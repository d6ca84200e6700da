/**
 * Looks into protobuf messages without decoding them: for one or two fields of a message whose type does not matter
 * otherwise, of which perhaps only the beginning is there. (protobuf.dev, Encoding.)
 */

export const VARINT = 0;
const I64 = 1;
export const LENGTH = 2;
const I32 = 5;

export interface FieldAt {
  number: number;
  wireType: number;
  /** Where its tag begins. */
  start: number;
  /** Where its value begins: of a length-delimited one after the length. */
  value: number;
  end: number;
}

/** The fields of a message in their order, up to one that is not whole. The object is the same each time. */
export function* fieldsIn(message: Uint8Array): Iterable<FieldAt> {
  const field: FieldAt = { number: 0, wireType: 0, start: 0, value: 0, end: 0 };
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = message[at];
      at += 1;
      if (byte === undefined) break;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    at = Number.POSITIVE_INFINITY;
    return 0;
  };
  while (at < message.length) {
    field.start = at;
    const tag = varint();
    field.number = Math.floor(tag / 8);
    field.wireType = tag % 8;
    field.value = at;
    switch (field.wireType) {
      case VARINT:
        varint();
        break;
      case I64:
        at += 8;
        break;
      case I32:
        at += 4;
        break;
      case LENGTH: {
        const length = varint();
        field.value = at;
        at += length;
        break;
      }
      default:
        return; // groups, which proto3 does not have, or no protobuf
    }
    if (at > message.length) return;
    field.end = at;
    yield field;
  }
}

/** The values of all length-delimited fields of that number (texts, messages), as far as they are whole; views. */
export function* fieldsOf(message: Uint8Array, number: number): Iterable<Uint8Array> {
  for (const field of fieldsIn(message)) {
    if (field.number === number && field.wireType === LENGTH) yield message.subarray(field.value, field.end);
  }
}

/** The first text at a path of field numbers: `[1, 2]` is field 2 of the message in field 1. */
export function textAt(message: Uint8Array, path: readonly number[]): string | undefined {
  const [number, ...rest] = path;
  if (number === undefined) return Buffer.from(message.buffer, message.byteOffset, message.length).toString();
  for (const value of fieldsOf(message, number)) return textAt(value, rest);
  return undefined;
}
