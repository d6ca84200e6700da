import type { GantryError } from '../errors.ts';
import { bad } from './layout.ts';

/*
 * tar as POSIX.1-2001 (ustar, pax) and GNU (long names, base-256 numbers) have it. Our own, as attributes of files hold
 * bytes that are no text (a capability, say), which libraries for Node turn into text and back into something else.
 */

export const BLOCK = 512;
/** Ends an archive. */
export const END = Buffer.alloc(2 * BLOCK);

/** What CRIU reads and writes memory by, in bytes. */
export const PAGE = 4096;
const MAX_PAX_BYTES = 1024 * 1024;
const MAX_NAME_BYTES = 4096;

/** Of a header: what follows it is the content of a file, or it says something about the next header. */
export type TarType = 'file' | 'link' | 'symlink' | 'character' | 'block' | 'folder' | 'fifo';

const TYPES: Readonly<Record<string, TarType>> = {
  '\0': 'file',
  '0': 'file',
  '1': 'link',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'folder',
  '6': 'fifo',
  '7': 'file',
};
const FLAGS: Readonly<Record<TarType, string>> = {
  file: '0',
  link: '1',
  symlink: '2',
  character: '3',
  block: '4',
  folder: '5',
  fifo: '6',
};

export interface TarMember {
  readonly name: string;
  readonly type: TarType;
  /** Permission bits, with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Of the content that follows, in bytes. */
  readonly size: number;
  /** Seconds since 1970. */
  readonly mtime: number;
  readonly target: string;
  readonly device: readonly [major: number, minor: number];
  /** Records of pax, as bytes: SCHILY.xattr.NAME and GNU.sparse.* among them. */
  readonly pax: ReadonlyMap<string, Buffer>;
}

/** Size of content with the padding that follows it. */
export function padded(size: number): number {
  return Math.ceil(size / BLOCK) * BLOCK;
}

/** One header block. Errors: RangeError, for a name of over 100 bytes: those need pax ({@link paxBlocks}). */
export function headerBlock(member: Partial<TarMember> & Pick<TarMember, 'name'>): Buffer {
  const { name, type = 'file', mode = 0o600, uid = 0, gid = 0, size = 0, mtime = 0, target = '' } = member;
  const block = Buffer.alloc(BLOCK);
  for (const text of [name, target]) {
    if (Buffer.byteLength(text) > 100) throw new RangeError(`too long for a ustar header: ${text}`);
  }
  block.write(name, 0);
  writeNumber(block, mode, 100, 8);
  writeNumber(block, uid, 108, 8);
  writeNumber(block, gid, 116, 8);
  writeNumber(block, size, 124, 12);
  writeNumber(block, mtime, 136, 12);
  block.write(FLAGS[type], 156);
  block.write(target, 157);
  block.write('ustar\u000000', 257);
  if (member.device !== undefined) {
    writeNumber(block, member.device[0], 329, 8);
    writeNumber(block, member.device[1], 337, 8);
  }
  block.write(`${octal(checksum(block), 6)}\0 `, 148);
  return block;
}

/** Everything that comes before a member's content: its header, and one of pax before it where it needs that. */
export function headerBlocks(member: Partial<TarMember> & Pick<TarMember, 'name'>): Buffer {
  const pax = new Map(member.pax);
  const long = (text = '') => Buffer.byteLength(text) > 100;
  if (long(member.name)) pax.set('path', Buffer.from(member.name));
  if (long(member.target)) pax.set('linkpath', Buffer.from(member.target ?? ''));
  const header = headerBlock({
    ...member,
    name: long(member.name) ? 'long-name' : member.name,
    target: long(member.target) ? 'long-target' : (member.target ?? ''),
  });
  if (pax.size === 0) return header;
  const records = Buffer.concat([...pax].map(([key, value]) => paxRecord(key, value)));
  return Buffer.concat([
    paxHeader(records.length),
    records,
    Buffer.alloc(padded(records.length) - records.length),
    header,
  ]);
}

/**
 * Length of a header that begins at a place, such that the content after it begins at a page. CRIU can then read pages out
 * of the archive itself.
 */
export function alignedHeaderLength(at: number): number {
  const gap = PAGE - (at % PAGE);
  // Alone, or with one of pax before it that has at least one block of records.
  return gap === BLOCK || gap >= 3 * BLOCK ? gap : gap + PAGE;
}

/** A header of that very length: a comment in a pax header fills it up. */
export function headerOfLength(member: Partial<TarMember> & Pick<TarMember, 'name'>, length: number): Buffer {
  const header = headerBlock(member);
  if (length === BLOCK) return header;
  const records = Buffer.alloc(length - 2 * BLOCK, ' ');
  records.write(`${records.length} comment=`);
  records.write('\n', records.length - 1);
  return Buffer.concat([paxHeader(records.length), records, header]);
}

function paxHeader(size: number): Buffer {
  const header = headerBlock({ name: 'PaxHeader', size });
  header.write('x', 156);
  header.write(`${octal(checksum(header), 6)}\0 `, 148);
  return header;
}

/** "LENGTH KEY=VALUE\n", whose length counts itself. */
function paxRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** The sum of all bytes, its own field counting as spaces. */
function checksum(block: Buffer): number {
  let sum = 8 * 0x20;
  for (let at = 0; at < BLOCK; at++) if (at < 148 || at >= 156) sum += block[at] ?? 0;
  return sum;
}

function octal(value: number, width: number): string {
  return value.toString(8).padStart(width, '0');
}

/** Octal where it fits, else base-256 as GNU has it. */
function writeNumber(block: Buffer, value: number, at: number, width: number): void {
  const digits = octal(value, width - 1);
  if (digits.length < width) {
    block.write(digits, at);
    return;
  }
  block.writeBigUInt64BE(BigInt(value), at + width - 8);
  block[at] = (block[at] ?? 0) | 0x80;
}

/** Bytes in their order. One that has `skip` passes over bytes that nobody asks for without reading them. */
export interface TarSource extends AsyncIterable<Uint8Array> {
  /** Over so many bytes from where it has read to; beyond its end there is nothing. */
  skip?(bytes: number): void | Promise<void>;
}

/** Reads what others have written, and believes none of it. */
export class TarReader {
  readonly #where: string;
  readonly #bytes: ByteReader;
  #left = 0;
  #padding = 0;

  /** @param where what it is called in errors */
  constructor(source: TarSource, where: string) {
    this.#where = where;
    this.#bytes = new ByteReader(source, where);
  }

  /** Bytes from the beginning of the archive to what is read next: after {@link next}, to the member's content. */
  get position(): number {
    return this.#bytes.position;
  }

  /** The next member; undefined at the end. What was not read of the one before is skipped. Errors: BAD_ARCHIVE. */
  async next(): Promise<TarMember | undefined> {
    await this.#skip();
    const pax = new Map<string, Buffer>();
    let longName: string | undefined;
    let longTarget: string | undefined;
    for (;;) {
      const block = await this.#bytes.readOrEnd(BLOCK);
      if (block === undefined) throw this.#bad('it ends before its end mark');
      if (block.every((byte) => byte === 0)) return undefined;
      const sum = this.#number(block, 148, 8);
      if (sum !== checksum(block)) throw this.#bad('the checksum of a header is wrong');
      const flag = block.toString('latin1', 156, 157);
      const size = this.#number(block, 124, 12);
      if (flag === 'g') throw this.#bad('global pax headers are not accepted');
      if (flag === 'x') {
        this.#records(await this.#small(size, MAX_PAX_BYTES), pax);
      } else if (flag === 'L') {
        longName = text(await this.#small(size, MAX_NAME_BYTES));
      } else if (flag === 'K') {
        longTarget = text(await this.#small(size, MAX_NAME_BYTES));
      } else {
        return this.#member(block, flag, { pax, longName, longTarget });
      }
    }
  }

  /** The content of the member that {@link next} has told of last, in pieces. */
  async *content(): AsyncGenerator<Buffer> {
    while (this.#left > 0) {
      const piece = await this.#bytes.some(this.#left);
      this.#left -= piece.length;
      yield piece;
    }
  }

  /** The same as a source, for an archive in this one. */
  inner(): TarSource {
    return {
      [Symbol.asyncIterator]: () => this.content(),
      skip: async (bytes) => {
        const most = Math.min(bytes, this.#left);
        await this.#bytes.skip(most);
        this.#left -= most;
      },
    };
  }

  /** The whole content. Errors: BAD_ARCHIVE, when it is larger than allowed. */
  async whole(limit: number): Promise<Buffer> {
    if (this.#left > limit) throw this.#bad(`a member has ${this.#left} bytes, and ${limit} are allowed`);
    const pieces: Buffer[] = [];
    for await (const piece of this.content()) pieces.push(piece);
    return Buffer.concat(pieces);
  }

  #member(
    block: Buffer,
    flag: string,
    {
      pax,
      longName,
      longTarget,
    }: { pax: Map<string, Buffer>; longName: string | undefined; longTarget: string | undefined },
  ): TarMember {
    const type = TYPES[flag];
    if (type === undefined) throw this.#bad(`a member is of the unknown type ${JSON.stringify(flag)}`);
    const isUstar = block.toString('latin1', 257, 263) === 'ustar\0';
    const prefix = isUstar ? text(block.subarray(345, 500)) : '';
    const short = text(block.subarray(0, 100));
    const name = pax.get('path')?.toString() ?? longName ?? (prefix === '' ? short : `${prefix}/${short}`);
    const paxSize = pax.get('size');
    const size = paxSize === undefined ? this.#number(block, 124, 12) : this.#decimal(paxSize);
    const hasContent = type === 'file';
    this.#left = hasContent ? size : 0;
    this.#padding = padded(this.#left) - this.#left;
    for (const key of ['path', 'linkpath', 'size']) pax.delete(key);
    return {
      name,
      type,
      mode: this.#number(block, 100, 8) & 0o7777,
      uid: this.#number(block, 108, 8),
      gid: this.#number(block, 116, 8),
      size: this.#left,
      mtime: this.#number(block, 136, 12),
      target: longTarget ?? text(block.subarray(157, 257)),
      device: [this.#number(block, 329, 8), this.#number(block, 337, 8)],
      pax,
    };
  }

  async #skip(): Promise<void> {
    await this.#bytes.skip(this.#left + this.#padding);
    this.#left = 0;
    this.#padding = 0;
  }

  async #small(size: number, limit: number): Promise<Buffer> {
    if (size > limit) throw this.#bad(`an extended header has ${size} bytes, and ${limit} are allowed`);
    const all = await this.#exactly(padded(size));
    return all.subarray(0, size);
  }

  async #exactly(length: number): Promise<Buffer> {
    if (length === 0) return Buffer.alloc(0);
    const bytes = await this.#bytes.readOrEnd(length);
    if (bytes === undefined) throw this.#bad('it ends in the middle');
    return bytes;
  }

  #records(bytes: Buffer, into: Map<string, Buffer>): void {
    for (let at = 0; at < bytes.length; ) {
      const space = bytes.indexOf(0x20, at);
      const length = space < 0 ? Number.NaN : Number(bytes.toString('latin1', at, space));
      const end = at + length;
      const equals = bytes.indexOf(0x3d, space);
      const isWhole = Number.isSafeInteger(length) && end <= bytes.length && space < equals && equals < end;
      if (!isWhole || bytes[end - 1] !== 0x0a) throw this.#bad('a pax header is malformed');
      into.set(bytes.toString('utf8', space + 1, equals), bytes.subarray(equals + 1, end - 1));
      at = end;
    }
  }

  #number(block: Buffer, at: number, width: number): number {
    const first = block[at] ?? 0;
    if ((first & 0x80) !== 0) {
      const value = block.readBigUInt64BE(at + width - 8) & (width === 8 ? (1n << 56n) - 1n : (1n << 64n) - 1n);
      if (first !== 0x80 || value > BigInt(Number.MAX_SAFE_INTEGER)) throw this.#bad('a number is out of range');
      return Number(value);
    }
    const digits = text(block.subarray(at, at + width)).trim();
    if (!/^[0-7]*$/.test(digits)) throw this.#bad(`${JSON.stringify(digits)} is no number`);
    return digits === '' ? 0 : Number.parseInt(digits, 8);
  }

  #decimal(bytes: Buffer): number {
    const value = Number(bytes.toString('latin1'));
    if (!Number.isSafeInteger(value) || value < 0) throw this.#bad('the size of a member is no number');
    return value;
  }

  #bad(why: string): GantryError {
    return bad(this.#where, `at byte ${this.#bytes.position}: ${why}`);
  }
}

function text(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
}

/** Pieces of any size, asked for by length. */
class ByteReader {
  position = 0;
  readonly #where: string;
  readonly #source: TarSource;
  readonly #iterator: AsyncIterator<Uint8Array>;
  #piece: Buffer = Buffer.alloc(0);

  constructor(source: TarSource, where: string) {
    this.#where = where;
    this.#source = source;
    this.#iterator = source[Symbol.asyncIterator]();
  }

  /** Errors: BAD_ARCHIVE at the end; where the source passes over bytes, whoever reads next finds that out. */
  async skip(length: number): Promise<void> {
    let left = length;
    while (left > 0 && (this.#piece.length > 0 || this.#source.skip === undefined))
      left -= (await this.some(left)).length;
    if (left === 0) return;
    await this.#source.skip?.(left);
    this.position += left;
  }

  /** So many bytes; undefined when fewer are left. */
  async readOrEnd(length: number): Promise<Buffer | undefined> {
    const pieces: Buffer[] = [];
    for (let missing = length; missing > 0; ) {
      const piece = await this.#upTo(missing);
      if (piece === undefined) return undefined;
      pieces.push(piece);
      missing -= piece.length;
    }
    return pieces.length === 1 ? pieces[0] : Buffer.concat(pieces);
  }

  /** At least one byte, and as many as there are, up to a limit. Errors: BAD_ARCHIVE at the end. */
  async some(most: number): Promise<Buffer> {
    const piece = await this.#upTo(most);
    if (piece === undefined) {
      throw bad(this.#where, `it ends at byte ${this.position}, and ${most} more are missing`);
    }
    return piece;
  }

  async #upTo(most: number): Promise<Buffer | undefined> {
    while (this.#piece.length === 0) {
      const { value, done } = await this.#iterator.next();
      if (done === true) return undefined;
      this.#piece = Buffer.from(value.buffer, value.byteOffset, value.length);
    }
    const piece = this.#piece.subarray(0, most);
    this.#piece = this.#piece.subarray(piece.length);
    this.position += piece.length;
    return piece;
  }
}
