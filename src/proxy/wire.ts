/**
 * Looks into protobuf messages without decoding them: for one or two fields of a message whose type does not matter
 * otherwise, of which perhaps only the beginning is there. (protobuf.dev, Encoding.)
 */

const VARINT = 0;
const I64 = 1;
const LENGTH = 2;
const I32 = 5;

/** The values of all length-delimited fields of that number (texts, messages), as far as they are whole; views. */
export function* fieldsOf(message: Uint8Array, number: number): Iterable<Uint8Array> {
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
    const tag = varint();
    switch (tag % 8) {
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
        const end = at + length;
        if (end > message.length) return;
        if (Math.floor(tag / 8) === number) yield message.subarray(at, end);
        at = end;
        break;
      }
      default:
        return; // groups, which proto3 does not have, or no protobuf
    }
  }
}

/** The first text at a path of field numbers: `[1, 2]` is field 2 of the message in field 1. */
export function textAt(message: Uint8Array, path: readonly number[]): string | undefined {
  const [number, ...rest] = path;
  if (number === undefined) return Buffer.from(message.buffer, message.byteOffset, message.length).toString();
  for (const value of fieldsOf(message, number)) return textAt(value, rest);
  return undefined;
}
