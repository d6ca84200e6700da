/**
 * Looks into protobuf messages without decoding them: for one or two fields of a message whose type does not matter
 * otherwise, of which perhaps only the beginning is there. (protobuf.dev, Encoding.)
 */

export const VARINT = 0;
const I64 = 1;
export const LENGTH = 2;
const I32 = 5;

/**
 * Goes through the fields of a message in their order, up to one that is not whole: `next`, then look at where it is. (No
 * generator: lists have hundreds of messages with dozens of fields.)
 */
export class FieldCursor {
  number = 0;
  wireType = 0;
  /** Where its tag begins. */
  start = 0;
  /** Where its value begins: of a length-delimited one after the length. */
  value = 0;
  end: number;
  readonly #message: Uint8Array;
  readonly #limit: number;
  #at: number;

  constructor(message: Uint8Array, from = 0, to = message.length) {
    this.#message = message;
    this.#limit = to;
    this.#at = from;
    this.end = from;
  }

  next(): boolean {
    if (this.end >= this.#limit) return false;
    this.start = this.end;
    this.#at = this.end;
    const tag = this.#varint();
    this.number = Math.floor(tag / 8);
    this.wireType = tag % 8;
    this.value = this.#at;
    switch (this.wireType) {
      case VARINT:
        this.#varint();
        break;
      case I64:
        this.#at += 8;
        break;
      case I32:
        this.#at += 4;
        break;
      case LENGTH: {
        const length = this.#varint();
        this.value = this.#at;
        this.#at += length;
        break;
      }
      default:
        this.#at = Number.POSITIVE_INFINITY; // groups, which proto3 does not have, or no protobuf
    }
    if (this.#at > this.#limit) {
      this.end = this.#limit;
      return false;
    }
    this.end = this.#at;
    return true;
  }

  #varint(): number {
    const message = this.#message;
    let at = this.#at;
    let byte = message[at] ?? -1;
    if (byte >= 0 && byte < 0x80) {
      this.#at = at + 1;
      return byte;
    }
    let value = 0;
    for (let scale = 1; scale < 2 ** 70; scale *= 128) {
      byte = message[at] ?? -1;
      if (byte < 0) break;
      at += 1;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        this.#at = at;
        return value;
      }
    }
    this.#at = Number.POSITIVE_INFINITY;
    return 0;
  }
}

/** The values of all length-delimited fields of that number (texts, messages), as far as they are whole; views. */
export function* fieldsOf(message: Uint8Array, number: number): Iterable<Uint8Array> {
  for (const field = new FieldCursor(message); field.next(); ) {
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
