import { readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { linkTo, sumOfManifest } from '../archive/chain.ts';
import { IMAGES, MANIFEST, type Manifest } from '../archive/layout.ts';
import { makeIncrement } from '../criu/increment.fixture.ts';
import type { ImageSource } from '../criu/source.ts';

/** Makes of a folder with a whole checkpoint one that has the folder `parent`, beside it, for its parent. */
export async function makeChild(folder: string, parent: string, before: ImageSource) {
  const sha256 = sumOfManifest(await readFile(join(parent, MANIFEST), 'utf8'));
  const told = { folder: `../${basename(parent)}`, sha256 };
  const manifest = JSON.parse(await readFile(join(folder, MANIFEST), 'utf8')) as Manifest;
  await writeFile(join(folder, MANIFEST), JSON.stringify({ ...manifest, parent: told }));
  return await makeIncrement(join(folder, IMAGES), before, linkTo(told));
}
