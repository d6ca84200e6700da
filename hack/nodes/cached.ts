import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ifPresent } from './failure.ts';
import { lock } from './lock.ts';
import { removeTree } from './mounts.ts';
import { step } from './progress.ts';

export interface Cached {
  readonly folder: string;
  /** Of everything that it is made from. */
  readonly key: string;
  /** What is said while it is made. */
  readonly title: string;
  readonly signal: AbortSignal;
}

/**
 * Makes a folder unless it is there with that key. It gets its name when it is complete, and one at a time makes it.
 *
 * @param make fills a new folder
 */
export async function cached(
  { folder, key, title, signal }: Cached,
  make: (fresh: string) => Promise<void>,
): Promise<void> {
  const isCurrent = async () => (await ifPresent(readFile(join(folder, 'key'), 'utf8'), '')) === key;
  if (await isCurrent()) return;
  await using _held = await lock(`${folder}.lock`, signal);
  if (await isCurrent()) return;
  await step(title, async () => {
    const fresh = `${folder}.new`;
    await removeTree(fresh);
    await mkdir(fresh, { recursive: true });
    await make(fresh);
    await writeFile(join(fresh, 'key'), key);
    await rm(folder, { recursive: true, force: true });
    await rename(fresh, folder);
  });
}

/** Changes with the code that makes images: files of this folder that everything made has in common, and others. */
export async function codeKey(...own: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const file of [...own, 'oci.ts', 'tar.ts', '../../src/archive/tar.ts'])
    hash.update(await readFile(join(import.meta.dirname, file)));
  return hash.digest('hex');
}
