import { constants, type FileHandle, open } from 'node:fs/promises';
import { errnoOf, GantryError, messageOf } from '../errors.ts';

const AGE = 'age-encryption.org/v1\n';
const GZIP_MAGIC = Buffer.from([0x1f, 0x8b]);
const ZSTD_MAGIC = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);

/** How the bytes of an archive lie in its file; what is encrypted does not tell whether it is compressed, too. */
export type Packing = 'plain' | 'gzip' | 'zstd' | 'encrypted';

/** From how the file begins. */
export function packingOf(head: Buffer): Packing {
  if (head.toString('latin1', 0, AGE.length) === AGE) return 'encrypted';
  if (head.subarray(0, ZSTD_MAGIC.length).equals(ZSTD_MAGIC)) return 'zstd';
  return head.subarray(0, GZIP_MAGIC.length).equals(GZIP_MAGIC) ? 'gzip' : 'plain';
}

export async function packingIn(file: FileHandle): Promise<Packing> {
  const { bytesRead, buffer } = await file.read(Buffer.alloc(AGE.length), 0, AGE.length, 0);
  return packingOf(buffer.subarray(0, bytesRead));
}

/**
 * A regular file, for reading. A folder may be a stranger's: no link is followed, and no FIFO is waited for.
 * Errors: NOT_FOUND; USAGE, for what is no regular file, and where rights are missing.
 */
export async function openRegular(path: string, followsLinks: boolean): Promise<FileHandle> {
  const how = constants.O_RDONLY | constants.O_NONBLOCK | (followsLinks ? 0 : constants.O_NOFOLLOW);
  const file = await open(path, how).catch((error: unknown) => {
    const code = errnoOf(error);
    if (code === 'ENOENT') throw new GantryError('NOT_FOUND', `there is no file ${path}`, { cause: error });
    const hint = code === 'EACCES' ? 'who made it, or root, may: it holds all memory of the processes' : '';
    throw new GantryError('USAGE', `cannot read ${path}: ${messageOf(error)}`, { cause: error, hint });
  });
  if ((await file.stat()).isFile()) return file;
  await file.close();
  throw new GantryError('USAGE', `${path} is no regular file`);
}
