import { constants, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, GantryError, messageOf } from '../errors.ts';
import { badImage } from './cursor.ts';

/** Where a checkpoint's images are: a folder, an archive, another node. */
export interface ImageSource {
  /** Base names of all files. */
  names(): Promise<string[]>;
  /**
   * A file, or as much of a part of it as there is.
   * @param from offset in bytes
   * @param length in bytes; to the end when left out
   */
  read(name: string, from?: number, length?: number): Promise<Buffer>;
  /** Of the dump before, which has the pages that were not written since. */
  readonly parent?: ImageSource | undefined;
}

/** A folder may be a stranger's: no link out of it is followed, and no FIFO is waited for. */
const HOW = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** The largest image that is read as a whole; pages are read in parts. */
const MAX_FILE_BYTES = 1024 * 1024 * 1024;

/**
 * Images in a folder. CRIU writes its statistics into its working folder, which may be another one: what is not in the
 * first folder is looked for in the next.
 *
 * Errors of its functions: NOT_FOUND; BAD_ARCHIVE, for what is no regular file, or larger than any image of messages.
 */
export function folderSource(path: string, ...others: readonly string[]): ImageSource {
  const folders = [path, ...others];
  return {
    async names() {
      const names = new Set<string>();
      for (const folder of folders) {
        const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
          throw new GantryError('NOT_FOUND', `cannot read the folder ${folder}: ${messageOf(error)}`, { cause: error });
        });
        for (const entry of entries) if (entry.isFile()) names.add(entry.name);
      }
      return [...names];
    },
    async read(name, from = 0, length) {
      for (const folder of folders) {
        const bytes = await readPart(join(folder, name), name, from, length);
        if (bytes !== undefined) return bytes;
      }
      throw new GantryError('NOT_FOUND', `there is no ${name} in ${folders.join(' or ')}`);
    },
  };
}

/** undefined when there is no such file. */
async function readPart(path: string, name: string, from: number, length?: number): Promise<Buffer | undefined> {
  try {
    await using file = await open(path, HOW);
    const stats = await file.stat();
    if (!stats.isFile()) throw badImage(name, 'it is no regular file');
    const { size } = stats;
    const wanted = Math.max(0, Math.min(length ?? size, size - from));
    if (wanted > MAX_FILE_BYTES) throw badImage(name, `it has ${size} bytes, no image has more than ${MAX_FILE_BYTES}`);
    const bytes = Buffer.allocUnsafe(wanted);
    let filled = 0;
    while (filled < wanted) {
      const { bytesRead } = await file.read(bytes, filled, wanted - filled, from + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return bytes.subarray(0, filled);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    if (errnoOf(error) === 'ELOOP') throw badImage(name, 'it is a symbolic link', undefined, error);
    throw GantryError.from(error);
  }
}
