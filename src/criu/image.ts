import { messageOf } from '../errors.ts';
import type { Messages } from '../gen/criu.ts';
import { badImage, Cursor } from './cursor.ts';
import { skipExtra } from './extra.ts';
import { COMMON_MAGIC, describe, type EntryOf, type HeadOf, type Kind, kindOf, SERVICE_MAGIC } from './kinds.ts';
import { decodeMessage } from './messages.ts';

/** CRIU's own entries have some kilobytes; what the largest ones hold grows with a process's mappings. */
export const MAX_ENTRY_BYTES = 64 * 1024 * 1024;

export interface Image<K extends Kind = Kind> {
  readonly kind: K;
  /** The first entry, where it is of another kind than the rest (a page map, a deleted file). */
  readonly head: HeadOf<K> | undefined;
  readonly entries: readonly EntryOf<K>[];
  /** How many raw bytes follow each of the entries. */
  readonly extraBytes: readonly number[];
}

/**
 * Decodes one of CRIU's images: magic numbers, then entries of a length (u32, little endian), a message, and raw bytes
 * behind some. 64-bit numbers are bigint, enums are names, fields are called what CRIU calls them. Unknown fields are
 * passed over, so that a newer CRIU's images can be read.
 *
 * Errors: BAD_ARCHIVE, with the file, the offset and what is wrong there; also for a file that is no such image.
 * @param file base name, by which CRIU tells what is in it ("core-1.img")
 */
export function decodeImage(file: string, bytes: Buffer): Image;
export function decodeImage<K extends Kind>(file: string, bytes: Buffer, kind: K): Image<K>;
export function decodeImage(file: string, bytes: Buffer, kind = kindOf(file)?.kind): Image {
  if (kind === undefined) throw badImage(file, 'no image of messages that is known has this name');
  const cursor = new Cursor(file, bytes);
  const head = headAt(cursor, kind);
  if (kind === 'GHOST_FILE' && !(head as unknown as Messages['ghost_file_entry']).chunks)
    return { kind, head, entries: [], extraBytes: [cursor.left] };
  const entries: EntryOf<Kind>[] = [];
  const extraBytes: number[] = [];
  for (const [entry, extra] of entriesAt(cursor, kind, head)) {
    entries.push(entry);
    extraBytes.push(extra);
  }
  return { kind, head, entries, extraBytes };
}

/**
 * The same, for an image that may have more entries than anybody wants to hold: each is decoded when it is asked for, once.
 * Errors: as for {@link decodeImage}, the entries' while they are asked for.
 */
export function openImage<K extends Kind>(
  file: string,
  bytes: Buffer,
  kind: K,
): Pick<Image<K>, 'head'> & { readonly entries: Iterable<EntryOf<K>> } {
  const cursor = new Cursor(file, bytes);
  const head = headAt(cursor, kind);
  return { head, entries: entriesAt(cursor, kind, head).map(([entry]) => entry) };
}

function headAt<K extends Kind>(cursor: Cursor, kind: K): HeadOf<K> {
  checkMagic(cursor, kind);
  const { head } = describe(kind);
  return (head && decodeEntry(cursor, head)) as HeadOf<K>;
}

function* entriesAt<K extends Kind>(
  cursor: Cursor,
  kind: K,
  head: HeadOf<K>,
): Generator<[entry: EntryOf<K>, extraBytes: number], void> {
  const { message, one } = describe(kind);
  let count = 0;
  for (; cursor.left > 0; count++) {
    if (one && count > 0) throw cursor.bad(`there is a second entry, an image of ${kind} has one`);
    const entry = decodeEntry(cursor, message) as EntryOf<K>;
    yield [entry, skipExtra(kind, cursor, entry, head)];
  }
  if (one && count === 0) throw cursor.bad(`there is no entry, an image of ${kind} has one`);
}

/** Images of version 1.0, and every inventory, have only the magic number of their kind. */
function checkMagic(cursor: Cursor, kind: Kind): void {
  const { magic, service } = describe(kind);
  const common = service ? SERVICE_MAGIC : COMMON_MAGIC;
  let found = cursor.u32('magic number');
  if (found === common && kind !== 'INVENTORY') found = cursor.u32('second magic number');
  if (found !== magic) throw badImage(cursor.file, `magic number ${hex(found)}, ${kind} has ${hex(magic)}`, 0);
}

function decodeEntry(cursor: Cursor, message: keyof Messages): Messages[keyof Messages] {
  const size = cursor.u32('length of an entry');
  if (size > MAX_ENTRY_BYTES) throw cursor.bad(`an entry has ${size} bytes, more than ${MAX_ENTRY_BYTES}`);
  const start = cursor.offset;
  const bytes = cursor.take(size, 'an entry');
  try {
    return decodeMessage(message, bytes);
  } catch (error) {
    throw badImage(cursor.file, `no ${message}: ${messageOf(error)}`, start, error);
  }
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, '0')}`;
}
