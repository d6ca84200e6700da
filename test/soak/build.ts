import { cp, mkdir, symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';

/**
 * Copies what was built, so that a build that somebody starts meanwhile does not change what is under test.
 *
 * @param repository with `bin` and `dist`
 * @param folder of the copy; the packages in it are still the repository's
 * @returns the command, as it is installed: it passes Node the flags that a relay runs with
 */
export async function copyBuild(repository: string, folder: string): Promise<string> {
  await mkdir(folder);
  for (const name of ['bin', 'dist']) await cp(join(repository, name), join(folder, name), { recursive: true });
  await symlink(resolve(repository, 'node_modules'), join(folder, 'node_modules'));
  return join(folder, 'bin/gantry');
}
