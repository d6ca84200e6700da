import { createHash } from 'node:crypto';
import { lstat, readFile, readlink, realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, GantryError, messageOf } from '../errors.ts';
import { bad, IMAGES, MANIFEST, type Manifest, PARENT_LINK, type Parent, parseManifest } from './layout.ts';

/*
 * Folders of which each has only the pages that were written since the one before, its parent.
 */

/** CRIU opens the page maps of all of them, for each process. */
export const MOST_PARENTS = 64;

/** An earlier checkpoint that a folder needs. */
export interface Ancestor {
  /** Its path. */
  readonly folder: string;
  readonly manifest: Manifest;
}

/** What CRIU's link `parent`, in the folder of its images, says; it is relative, and so are both folders to each other. */
export function linkTo({ folder }: Parent): string {
  return join('..', folder, IMAGES);
}

/** SHA-256 of a manifest, by which its children know it. */
export function sumOfManifest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/**
 * All that a folder needs, the nearest first; none of one that stands alone. Every link is the one that the manifest
 * says, and every manifest the one that it was when its child was made.
 *
 * Errors: BAD_ARCHIVE, UNSUPPORTED for a version not known here.
 */
export async function ancestorsOf(path: string, manifest: Manifest): Promise<Ancestor[]> {
  const found: Ancestor[] = [];
  const { dev } = await stat(path);
  const seen = new Set([await identityOf(path)]);
  let folder = path;
  for (let { parent } = manifest; ; parent = (found.at(-1) as Ancestor).manifest.parent) {
    await checkLink(folder, parent);
    if (parent === undefined) return found;
    const wanted = join(folder, parent.folder);
    if (found.length === MOST_PARENTS) throw broken(path, `it has more than ${MOST_PARENTS} parents`);
    const [above, text] = await readParent(folder, parent.folder);
    const identity = await identityOf(above);
    if (seen.has(identity)) throw broken(path, `${above} is among its own parents`);
    seen.add(identity);
    if (sumOfManifest(text) !== parent.sha256)
      throw broken(folder, `its parent ${wanted} is another one than it was made from`);
    // CRIU follows the link when the root folder is the container's already, and no mount above it is left.
    if ((await stat(above)).dev !== dev) throw broken(folder, `its parent ${wanted} is on another file system`);
    found.push({ folder: above, manifest: parseManifest(text, above) });
    folder = above;
  }
}

/** By which a folder is the same one, whatever it is called. */
export async function identityOf(folder: string): Promise<string> {
  const { dev, ino } = await stat(folder, { bigint: true });
  return `${dev}:${ino}`;
}

/**
 * Which folder is the parent of one, by its link or by its manifest, whatever they are worth: its {@link identityOf}.
 * undefined for one that stands alone, or whose parent is gone.
 */
export async function parentOf(folder: string): Promise<string | undefined> {
  const byLink = await identityOf(`${folder}/${PARENT_LINK}/..`).catch(() => undefined);
  return byLink ?? (await parentByManifest(folder).catch(() => undefined));
}

async function parentByManifest(folder: string): Promise<string | undefined> {
  const { parent } = parseManifest(await readFile(join(folder, MANIFEST), 'utf8'), folder);
  return parent === undefined ? undefined : await identityOf(`${folder}/${parent.folder}`);
}

async function readParent(child: string, relative: string): Promise<[folder: string, manifest: string]> {
  const wanted = join(child, relative);
  try {
    // Where the kernel, and so CRIU, gets to from there.
    const reached = `${child}/${relative}`;
    const isPlain = (await identityOf(reached)) === (await identityOf(wanted).catch(() => undefined));
    const folder = isPlain ? wanted : await realpath(reached);
    // Not over a link: nobody has said where that leads to.
    if (!(await lstat(join(folder, IMAGES))).isDirectory()) throw new Error(`its ${IMAGES} is no folder`);
    return [folder, await readFile(join(folder, MANIFEST), 'utf8')];
  } catch (error) {
    throw broken(child, `its parent ${wanted} cannot be read: ${messageOf(error)}`, error);
  }
}

async function checkLink(folder: string, parent: Parent | undefined): Promise<void> {
  const found = await readlink(join(folder, PARENT_LINK)).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw bad(folder, `its ${PARENT_LINK} is no symbolic link: ${messageOf(error)}`);
  });
  const told = parent === undefined ? undefined : linkTo(parent);
  if (found === told) return;
  throw bad(folder, `its ${PARENT_LINK} is ${found ?? 'missing'}, and its manifest says ${told ?? 'that it has none'}`);
}

function broken(path: string, why: string, cause?: unknown): GantryError {
  return new GantryError('BAD_ARCHIVE', `${path} is not complete: ${why}`, {
    cause,
    hint: 'part of its memory is in its parents: all of them are needed, unchanged and in the same places',
  });
}
