import type { FileHandle } from 'node:fs/promises';
import type { TarSource } from './tar.ts';

/** Small, as much of what is read at once may be passed over. */
const PIECE_BYTES = 256 * 1024;

/**
 * An archive that is neither compressed nor encrypted: what is skipped is not read. The file is the caller's to close.
 * @param start where it begins in the file, in bytes; `end` likewise
 */
export function seekable(file: FileHandle, end: number, start = 0): TarSource {
  return readAt(async (position) => {
    const buffer = Buffer.allocUnsafe(Math.max(0, Math.min(PIECE_BYTES, end - position)));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
    return buffer.subarray(0, bytesRead);
  }, start);
}

/** The same, however it is read. @param read what comes at a position, as much as it likes; nothing at the end */
export function readAt(read: (position: number) => Promise<Buffer>, start = 0): TarSource {
  let position = start;
  return {
    skip(bytes) {
      position += bytes;
    },
    async *[Symbol.asyncIterator]() {
      for (let piece = await read(position); piece.length > 0; piece = await read(position)) {
        position += piece.length;
        yield piece;
      }
    },
  };
}
