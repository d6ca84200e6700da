import type { FileHandle } from 'node:fs/promises';
import type { TarSource } from './tar.ts';

/** Small, as much of what is read at once may be passed over. */
const PIECE_BYTES = 256 * 1024;

/**
 * An archive that is neither compressed nor encrypted: what is skipped is not read. The file is the caller's to close.
 * @param start where it begins in the file, in bytes; `end` likewise
 */
export function seekable(file: FileHandle, end: number, start = 0): TarSource {
  let position = start;
  return {
    skip(bytes) {
      position += bytes;
    },
    async *[Symbol.asyncIterator]() {
      while (position < end) {
        const buffer = Buffer.allocUnsafe(Math.min(PIECE_BYTES, end - position));
        const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
        if (bytesRead === 0) return;
        position += bytesRead;
        yield buffer.subarray(0, bytesRead);
      }
    },
  };
}
