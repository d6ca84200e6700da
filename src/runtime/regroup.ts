import { mkdir, readdir, readFile, realpath, symlink, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { encodeImage } from '../criu/encode.ts';
import { decodeImage } from '../criu/image.ts';
import { fileOf } from '../criu/kinds.ts';
import type { CgMemberEntry } from '../gen/criu.ts';

/**
 * Makes a folder through which CRIU sees the images of another one, with the processes in the groups `cgroup` of every
 * hierarchy (as in the OCI specification), rather than in those that they were dumped in. `place` is where the folder will
 * be in the end. Errors: BAD_ARCHIVE.
 */
export async function linkRegrouped(images: string, folder: string, place: string, cgroup: string): Promise<void> {
  const groups = fileOf('CGROUP');
  await mkdir(folder, { mode: 0o700 });
  // Relative, as CRIU follows them when the root folder is the container's already.
  const back = relative(place, await realpath(images));
  for (const name of await readdir(images)) {
    if (name !== groups) {
      await symlink(join(back, name), join(folder, name));
      continue;
    }
    const { entries } = decodeImage(name, await readFile(join(images, name)), 'CGROUP');
    const moved = entries.map(({ sets, controllers }) => ({
      sets: sets.map(({ id, ctls }) => ({ id, ctls: ctls.map((one) => movedTo(cgroup, one)) })),
      controllers: controllers.map(({ cnames }) => ({ cnames, dirs: [] })),
    }));
    await writeFile(join(folder, name), encodeImage('CGROUP', moved));
  }
}

/** What a namespace hides of the path is all of it, if anything. */
function movedTo(cgroup: string, { name, cgns_prefix: hidden = 0 }: CgMemberEntry) {
  return { name, path: cgroup, ...(hidden > 0 && { cgns_prefix: cgroup.length }) };
}
