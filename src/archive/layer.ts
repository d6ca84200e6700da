import { GantryError } from '../errors.ts';
import { bad } from './layout.ts';
import { END, headerBlocks, padded, type TarMember, TarReader } from './tar.ts';

/*
 * What a container has changed in its image is on the node the upper folder of an overlay: a deleted file is a device
 * 0/0, and a folder that hides the one below has an attribute. In archives it is a layer as OCI has it ("Layer Changeset
 * Format"), where both are files of special names. Here one tar stream becomes the other.
 */

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
const XATTR = 'SCHILY.xattr.';
const OVERLAY = `${XATTR}trusted.overlay.`;
const IS_OPAQUE = `${OVERLAY}opaque`;
const CAPABILITY = `${XATTR}security.capability`;
const YES = Buffer.from('y');
/** Set where an overlay was mounted with features that a layer has no words for. */
const UNTOLD = ['redirect', 'metacopy'].map((name) => `${OVERLAY}${name}`);

/** From an upper folder, as tar packs it, to a layer. Errors: UNSUPPORTED, for what a layer cannot say. */
export async function* layerOfUpper(upper: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  const tar = new TarReader(upper, 'what tar has packed');
  for (let member = await tar.next(); member !== undefined; member = await tar.next()) {
    const { pax, name } = member;
    const untold = UNTOLD.find((key) => pax.has(key));
    if (untold !== undefined) {
      throw new GantryError('UNSUPPORTED', `${name} has ${untold.slice(XATTR.length)}, which no layer can tell of`, {
        hint: 'the snapshotter mounts its overlays with redirect_dir or metacopy: turn that off',
      });
    }
    if (member.type === 'character' && isZero(member)) {
      yield headerBlocks({ name: sibling(name, `${WHITEOUT}${baseOf(name)}`), mtime: member.mtime });
      continue;
    }
    const isOpaque = pax.get(IS_OPAQUE)?.equals(YES) === true;
    const plain = new Map([...pax].filter(([key]) => !key.startsWith(OVERLAY)));
    yield headerBlocks({ ...member, pax: plain });
    yield* contentWithPadding(tar, member.size);
    if (isOpaque) yield headerBlocks({ name: `${name.replace(/\/$/, '')}/${OPAQUE}`, mtime: member.mtime });
  }
  yield END;
}

/**
 * From a layer that somebody has written to what tar may unpack into an upper folder. Errors: BAD_ARCHIVE, for paths
 * that lead out of it, devices, and files with more rights than the container has without them.
 *
 * @param options `allowsSetuid`: files may be setuid, setgid, or have capabilities of their own; `deleted`: files that are
 *   gone, of which the layer itself says nothing; `isPlain`: it is a folder of files, and no name in it means a deletion
 */
export async function* upperOfLayer(
  layer: AsyncIterable<Uint8Array>,
  where: string,
  options: { readonly allowsSetuid: boolean; readonly deleted?: readonly string[]; readonly isPlain?: boolean },
): AsyncGenerator<Buffer> {
  const tar = new TarReader(layer, where);
  const folders = new Map<string, TarMember>();
  const links = new Set<string>();
  for (let member = await tar.next(); member !== undefined; member = await tar.next()) {
    const name = realName(member);
    const path = pathOf(where, name, links);
    if (member.type === 'link') pathOf(where, member.target, links);
    if (member.type === 'symlink') links.add(path);
    if (member.type === 'folder') folders.set(path, member);
    const base = baseOf(path);
    if (base === OPAQUE && options.isPlain !== true) {
      const folder = folders.get(parentOf(path)) ?? { ...member, type: 'folder', mode: 0o755, pax: new Map() };
      const pax = new Map(folder.pax).set(IS_OPAQUE, YES);
      yield headerBlocks({ ...folder, name: `./${parentOf(path)}/`, size: 0, pax });
      continue;
    }
    if (base.startsWith(WHITEOUT) && options.isPlain !== true) {
      yield whiteout(sibling(path, base.slice(WHITEOUT.length)));
      continue;
    }
    check(where, member, options.allowsSetuid);
    yield headerBlocks(member);
    yield* contentWithPadding(tar, member.size);
  }
  for (const path of options.deleted ?? []) yield whiteout(pathOf(where, path.replace(/^\/+/, ''), links));
  yield END;
}

function whiteout(path: string): Buffer {
  return headerBlocks({ name: path, type: 'character', device: [0, 0], mode: 0 });
}

function check(where: string, { name, type, mode, pax }: TarMember, allowsSetuid: boolean): void {
  if (type === 'character' || type === 'block') throw bad(where, `${name} in its layer is a device`);
  const overlay = [...pax.keys()].find((key) => key.startsWith(OVERLAY));
  if (overlay !== undefined) throw bad(where, `${name} in its layer has ${overlay.slice(XATTR.length)}`);
  const isPrivileged = type === 'file' && ((mode & 0o6000) !== 0 || pax.has(CAPABILITY));
  if (isPrivileged && !allowsSetuid) {
    throw new GantryError('BAD_ARCHIVE', `${name} in the layer of ${where} is setuid or has capabilities`, {
      hint: 'when that is as it should be: --allow-setuid',
    });
  }
}

/** Sparse files stand under a name that is made up. */
function realName({ name, pax }: TarMember): string {
  return pax.get('GNU.sparse.name')?.toString() ?? name;
}

function pathOf(where: string, name: string, links: ReadonlySet<string>): string {
  const path = name.replace(/^(\.\/)+/, '').replace(/\/+$/, '');
  const parts = path === '.' || path === '' ? [] : path.split('/');
  if (
    name.startsWith('/') ||
    name.includes('\0') ||
    parts.some((part) => part === '' || part === '.' || part === '..')
  ) {
    throw bad(where, `${JSON.stringify(name)} in its layer is a path that leads out of it`);
  }
  for (let count = 1; count < parts.length; count++) {
    if (links.has(parts.slice(0, count).join('/'))) {
      throw bad(where, `${JSON.stringify(name)} in its layer leads through a symbolic link`);
    }
  }
  return parts.join('/');
}

async function* contentWithPadding(tar: TarReader, size: number): AsyncGenerator<Buffer> {
  yield* tar.content();
  if (padded(size) > size) yield Buffer.alloc(padded(size) - size);
}

function isZero({ device: [major, minor] }: TarMember): boolean {
  return major === 0 && minor === 0;
}

function baseOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function parentOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')));
}

function sibling(path: string, name: string): string {
  const parent = parentOf(path);
  return parent === '' ? name : `${parent}/${name}`;
}
