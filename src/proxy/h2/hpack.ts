import { Field, type Fields, STATIC_TABLE } from './fields.ts';
import { byteAt, ConnectionError, ErrorCode } from './frames.ts';
import { decodeHuffman } from './huffman.ts';

/** What both sides begin with, and what this relay announces (RFC 9113 6.5.2). */
export const HEADER_TABLE_BYTES = 4096;
/** A dynamic table size update to 0 (RFC 7541 6.3), sent before the first field: the table of the peer is never used. */
export const NO_TABLE = 0x20;

const STATIC_ENTRIES = STATIC_TABLE.length;
// No string of ours is longer; 28 bits are far above any header block and far below what bit operations can hold.
const LARGEST_INTEGER = 2 ** 28;

/** The entries that the peer has added, newest first; a ring, as entries come and go with every call (`grpc-timeout`). */
class DynamicTable {
  // An entry counts 32 bytes and more.
  readonly #ring: (Field | undefined)[];
  readonly #mask: number;
  #next = 0;
  #count = 0;
  #size = 0;
  #limit: number;

  constructor(limit: number) {
    const slots = 2 ** Math.ceil(Math.log2(limit / 32 + 1));
    this.#ring = new Array<Field | undefined>(slots).fill(undefined);
    this.#mask = slots - 1;
    this.#limit = limit;
  }

  at(index: number): Field | undefined {
    return index < this.#count ? this.#ring[(this.#next - 1 - index) & this.#mask] : undefined;
  }

  add(entry: Field): void {
    const size = entry.size;
    this.#evict(this.#limit - size);
    if (size > this.#limit) return; // RFC 7541 4.4: it empties the table, and that is no error
    this.#ring[this.#next & this.#mask] = entry;
    this.#next += 1;
    this.#count += 1;
    this.#size += size;
  }

  resize(limit: number): void {
    this.#limit = limit;
    this.#evict(limit);
  }

  #evict(to: number): void {
    while (this.#size > to && this.#count > 0) {
      const oldest = (this.#next - this.#count) & this.#mask;
      this.#size -= this.#ring[oldest]?.size ?? 0;
      this.#ring[oldest] = undefined;
      this.#count -= 1;
    }
  }
}

/** Decodes the header blocks of one direction of one connection (RFC 7541 3). */
export class HpackDecoder {
  readonly #table: DynamicTable;
  readonly #tableBytes: number;
  readonly #listBytes: number;
  #block: Buffer = Buffer.alloc(0);
  #at = 0;
  #end = 0;

  /** @param listBytes how large a list may be, as RFC 9113 6.5.2 counts for SETTINGS_MAX_HEADER_LIST_SIZE */
  constructor(listBytes: number, tableBytes = HEADER_TABLE_BYTES) {
    this.#table = new DynamicTable(tableBytes);
    this.#tableBytes = tableBytes;
    this.#listBytes = listBytes;
  }

  /**
   * The fields of a whole header block, or undefined if they are more than allowed: the block has been read to its end for
   * the sake of the table, but nothing was kept.
   *
   * @throws ConnectionError COMPRESSION_ERROR; the table is out of step then for good (RFC 9113 4.3)
   */
  decode(block: Buffer): Fields | undefined {
    this.#block = block;
    this.#at = 0;
    this.#end = block.length;
    let fields: Field[] | undefined = [];
    let size = 0;
    let updates = true;
    while (this.#at < this.#end) {
      const byte = byteAt(block, this.#at);
      if ((byte & 0xe0) === 0x20) {
        if (!updates) throw compression('a table size update after a field'); // RFC 7541 4.2
        this.#resize();
        continue;
      }
      updates = false;
      const one = (byte & 0x80) !== 0 ? this.#indexed() : this.#literal(byte);
      if (fields === undefined) continue;
      size += one.size;
      if (size > this.#listBytes) fields = undefined;
      else fields.push(one);
    }
    this.#block = EMPTY;
    return fields;
  }

  #resize(): void {
    const limit = this.#integer(5);
    if (limit > this.#tableBytes) throw compression(`a table of ${limit} bytes`);
    this.#table.resize(limit);
  }

  #indexed(): Field {
    const index = this.#integer(7);
    const entry = index <= STATIC_ENTRIES ? STATIC_TABLE[index - 1] : this.#table.at(index - STATIC_ENTRIES - 1);
    if (entry === undefined) throw compression(`index ${index}`);
    return entry;
  }

  #literal(byte: number): Field {
    const incremental = (byte & 0x40) !== 0;
    const index = this.#integer(incremental ? 6 : 4);
    const name = index === 0 ? this.#string() : this.#nameAt(index);
    const one = new Field(name, this.#string(), !incremental && (byte & 0x10) !== 0);
    if (incremental) this.#table.add(one);
    return one;
  }

  #nameAt(index: number): string {
    const entry = index <= STATIC_ENTRIES ? STATIC_TABLE[index - 1] : this.#table.at(index - STATIC_ENTRIES - 1);
    if (entry === undefined) throw compression(`index ${index}`);
    return entry.name;
  }

  // RFC 7541 5.1.
  #integer(bits: number): number {
    const most = (1 << bits) - 1;
    let value = byteAt(this.#block, this.#at++) & most;
    if (value < most) return value;
    for (let shift = 0; this.#at < this.#end; shift += 7) {
      const byte = byteAt(this.#block, this.#at++);
      // Leading zeros are as good a way to be endless as large numbers.
      if (shift > 28) break;
      value += (byte & 127) * 2 ** shift;
      if (value > LARGEST_INTEGER) break;
      if (byte < 128) return value;
    }
    throw compression('an integer without end');
  }

  // RFC 7541 5.2.
  #string(): string {
    if (this.#at >= this.#end) throw compression('a string that is not there');
    const huffman = (byteAt(this.#block, this.#at) & 0x80) !== 0;
    const length = this.#integer(7);
    const start = this.#at;
    const end = start + length;
    if (end > this.#end) throw compression('a string beyond the end');
    this.#at = end;
    if (!huffman) return this.#block.toString('latin1', start, end);
    const text = decodeHuffman(this.#block, start, end);
    if (text === undefined) throw compression('a string that is not Huffman-coded');
    return text;
  }
}

const EMPTY = Buffer.alloc(0);

function compression(what: string): ConnectionError {
  return new ConnectionError(ErrorCode.COMPRESSION_ERROR, `header block: ${what}`);
}
