import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeImage } from '../criu/image.ts';
import type { CoreEntry } from '../gen/criu.ts';

/** Of each thread in a folder of CRIU's images: its ID as the container counts, and its state. Errors: BAD_ARCHIVE. */
export async function* coresIn(images: string): AsyncGenerator<{ readonly id: number; readonly core: CoreEntry }> {
  for (const name of await readdir(images)) {
    const id = /^core-(\d+)\.img$/.exec(name)?.[1];
    if (id === undefined) continue;
    for (const core of decodeImage(name, await readFile(join(images, name)), 'CORE').entries)
      yield { id: Number(id), core };
  }
}
