import { mkdir, mkdtemp, open, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IMAGES, VOLUMES } from '../archive/layout.ts';
import { contentOf } from '../archive/reader.ts';
import { errnoOf, GantryError } from '../errors.ts';
import type { Packing } from './form.ts';
import { FolderMembers, type Members, type MembersOfAll } from './members.ts';
import type { OpenOptions } from './open.ts';
import { abortable, type Visit, walkArchive } from './walk.ts';

/** Of what is free, for what is unpacked. */
const SHARE = 0.9;

/** A filesystem in memory, where there is one (statfs(2), TMPFS_MAGIC). */
const MEMORY = '/dev/shm';
const TMPFS = 0x01021994;

/**
 * Unpacks an archive that is compressed or encrypted into a folder that nobody else may enter: in $TMPDIR, or in memory for
 * what was encrypted. It goes when the result is disposed, and at once after an error.
 * Errors: NO_SPACE, BAD_ARCHIVE, USAGE without its key.
 */
export async function unpack(path: string, packing: Packing, options: OpenOptions): Promise<MembersOfAll> {
  const { identities = [], signal, onUnpacked, keeps = () => true } = options;
  const above = packing === 'encrypted' && (await isInMemory(MEMORY)) ? MEMORY : tmpdir();
  const folder = await mkdtemp(join(above, 'gantry-unpacked-'));
  const bytes = abortable(contentOf(path, { identities }), signal, onUnpacked);
  try {
    const { bavail, bsize } = await statfs(folder);
    let room = bavail * bsize * SHARE;
    const into = async (target: string): Promise<Visit> => {
      for (const name of [IMAGES, VOLUMES]) await mkdir(join(target, name), { recursive: true, mode: 0o700 });
      return async (name, { size }, tar) => {
        if (!keeps(name)) return;
        room -= size;
        if (room < 0) throw noRoom(path, above);
        await using file = await open(join(target, name), 'wx', 0o600);
        for await (const piece of tar.content()) await file.writeFile(piece);
      };
    };
    const names: string[] = [];
    await walkArchive(bytes, path, {
      member: await into(folder),
      container: async (name, _member, tar) => {
        names.push(name);
        await walkArchive(tar.content(), `${path}: ${name}`, { member: await into(join(folder, name)), signal });
      },
      signal,
    });
    const containers = new Map<string, Members>();
    for (const name of names) {
      containers.set(name, await FolderMembers.open(join(folder, name), { where: `${path}: ${name}` }));
    }
    return { own: await FolderMembers.open(folder, { where: path, isTemporary: true }), containers };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw errnoOf(error) === 'ENOSPC' ? noRoom(path, above, error) : error;
  } finally {
    // It closes the file.
    await bytes.return(undefined);
  }
}

function isInMemory(folder: string): Promise<boolean> {
  return statfs(folder).then(
    ({ type }) => type === TMPFS,
    () => false,
  );
}

function noRoom(path: string, above: string, cause?: unknown): GantryError {
  return new GantryError('NO_SPACE', `there is no room in ${above} to unpack ${path}`, {
    cause,
    hint:
      above === MEMORY
        ? 'what is encrypted does not go onto a disk in the clear: decrypt it with age where that is right, and use the result'
        : 'set TMPDIR to a folder of a larger filesystem',
  });
}
