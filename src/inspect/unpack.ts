import { mkdir, mkdtemp, open, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IMAGES, VOLUMES } from '../archive/layout.ts';
import { contentOf } from '../archive/reader.ts';
import { errnoOf, GantryError } from '../errors.ts';
import { FolderMembers, type Members, type MembersOfAll } from './members.ts';
import type { OpenOptions } from './open.ts';
import { abortable, type Visit, walkArchive } from './walk.ts';

/** Of what is free, for what is unpacked. */
const SHARE = 0.9;

/**
 * Unpacks an archive that is compressed or encrypted into a folder in $TMPDIR that nobody else may enter; it goes when the
 * result is disposed, and at once after an error. Errors: NO_SPACE, BAD_ARCHIVE, USAGE without its key.
 */
export async function unpack(path: string, options: OpenOptions): Promise<MembersOfAll> {
  const { identities = [], signal, onUnpacked, keeps = () => true } = options;
  const folder = await mkdtemp(join(tmpdir(), 'gantry-unpacked-'));
  const bytes = abortable(contentOf(path, { identities }), signal, onUnpacked);
  try {
    const { bavail, bsize } = await statfs(folder);
    let room = bavail * bsize * SHARE;
    const into = async (target: string): Promise<Visit> => {
      for (const name of [IMAGES, VOLUMES]) await mkdir(join(target, name), { recursive: true, mode: 0o700 });
      return async (name, { size }, tar) => {
        if (!keeps(name)) return;
        room -= size;
        if (room < 0) throw noRoom(path);
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
    throw errnoOf(error) === 'ENOSPC' ? noRoom(path, error) : error;
  } finally {
    // It closes the file.
    await bytes.return(undefined);
  }
}

function noRoom(path: string, cause?: unknown): GantryError {
  return new GantryError('NO_SPACE', `there is no room in ${tmpdir()} to unpack ${path}`, {
    cause,
    hint: 'set TMPDIR to a folder of a larger filesystem',
  });
}
