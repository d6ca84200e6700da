import { decodeImage } from './image.ts';
import { COMMON_MAGIC, type EntryOf, type Kind } from './kinds.ts';

/** An image with only some of its entries, each byte for byte as it was. For kinds without a head. Errors: BAD_ARCHIVE. */
export function selectEntries<K extends Kind>(
  file: string,
  bytes: Buffer,
  kind: K,
  isWanted: (entry: EntryOf<K>) => boolean,
): Buffer {
  const { entries, extraBytes } = decodeImage(file, bytes, kind);
  let at = bytes.readUInt32LE(0) === COMMON_MAGIC ? 8 : 4;
  const parts = [bytes.subarray(0, at)];
  for (const [index, entry] of entries.entries()) {
    const end = at + 4 + bytes.readUInt32LE(at) + (extraBytes[index] ?? 0);
    if (isWanted(entry)) parts.push(bytes.subarray(at, end));
    at = end;
  }
  return Buffer.concat(parts);
}
