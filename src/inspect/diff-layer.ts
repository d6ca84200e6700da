import { createHash } from 'node:crypto';
import { LAYER, SHM, VOLUMES } from '../archive/layout.ts';
import { type TarMember, TarReader, type TarType } from '../archive/tar.ts';
import { layerContent } from './layer-content.ts';
import type { Members } from './members.ts';

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';

/** Of a file; in the writable layer, "deletion": of one that the image has, "replacement": of all that a folder of it has. */
export type LayerFileType = TarType | 'deletion' | 'replacement';

export interface LayerFile {
  readonly path: string;
  readonly type: LayerFileType;
  readonly sizeBytes: number;
}

export interface LayerDifference {
  readonly added: readonly LayerFile[];
  readonly removed: readonly LayerFile[];
  /** `what`: "content", "mode" … */
  readonly changed: readonly (LayerFile & { readonly what: readonly string[] })[];
}

interface Known extends LayerFile {
  /** By what it is called when it differs. */
  readonly properties: Readonly<Record<string, string>>;
}

/** By where it is: "volumes/NAME", or "/dev/shm". */
export type VolumeDifferences = Readonly<Record<string, LayerDifference>>;

/** What a container has written, deleted and changed in between. Errors: BAD_ARCHIVE. */
export function diffLayers(before: Members, after: Members, signal?: AbortSignal): Promise<LayerDifference> {
  return diffFiles(before, after, LAYER, signal);
}

/** The same of volumes and /dev/shm: one that only one of them has is new, or gone, with all its files. Errors: BAD_ARCHIVE. */
export async function diffVolumes(before: Members, after: Members, signal?: AbortSignal): Promise<VolumeDifferences> {
  const names = [...before.sizes.keys(), ...after.sizes.keys()].filter((name) => name.startsWith(`${VOLUMES}/`));
  const found: Record<string, LayerDifference> = {};
  for (const name of [...new Set(names)].sort())
    found[name.slice(0, -'.tar'.length)] = await diffFiles(before, after, name, signal);
  if (before.has(SHM) || after.has(SHM)) found['/dev/shm'] = await diffFiles(before, after, SHM, signal);
  return found;
}

async function diffFiles(
  before: Members,
  after: Members,
  name: string,
  signal: AbortSignal | undefined,
): Promise<LayerDifference> {
  const old = await filesIn(before, name, signal);
  const added: LayerFile[] = [];
  const changed: (LayerFile & { what: string[] })[] = [];
  for (const file of (await filesIn(after, name, signal)).values()) {
    const known = old.get(file.path);
    old.delete(file.path);
    const { properties, ...plain } = file;
    if (known === undefined) {
      added.push(plain);
      continue;
    }
    const what = Object.keys(properties).filter((name) => properties[name] !== known.properties[name]);
    if (what.length > 0) changed.push({ ...plain, what });
  }
  const removed = [...old.values()].map(({ properties: _, ...plain }) => plain);
  return { added: sorted(added), removed: sorted(removed), changed: sorted(changed) };
}

/** Of every file what it is and a hash of its content, which is not kept. */
async function filesIn(members: Members, name: string, signal: AbortSignal | undefined): Promise<Map<string, Known>> {
  const files = new Map<string, Known>();
  if (!members.has(name)) return files;
  const tar = new TarReader(layerContent(members, name, signal), `${name} of ${members.where}`);
  for (let member = await tar.next(); member !== undefined; member = await tar.next()) {
    const hash = createHash('sha256');
    for await (const piece of tar.content()) hash.update(piece);
    const file = knownOf(member, hash.digest('hex'), name === LAYER);
    files.set(file.path, file);
  }
  return files;
}

/** @param isLayer names may mean that something is gone; elsewhere they are names */
function knownOf(member: TarMember, sha256: string, isLayer: boolean): Known {
  const name = (member.pax.get('GNU.sparse.name')?.toString() ?? member.name).replace(/^\.\/|\/$/g, '');
  const plain = { path: name === '' || name === '.' ? '/' : name, type: member.type };
  const { path, type }: Pick<LayerFile, 'path' | 'type'> = isLayer ? meaningOf(plain.path, plain.type) : plain;
  const { mode, uid, gid, size, target, device, mtime, pax } = member;
  // A folder's time changes with what is put into it, which is told as that.
  const time = type === 'folder' ? '' : (pax.get('mtime')?.toString() ?? String(mtime));
  const attributes = [...pax].filter(([key]) => key.startsWith('SCHILY.xattr.'));
  return {
    path,
    type,
    sizeBytes: Number(pax.get('GNU.sparse.realsize')?.toString() ?? size),
    properties: {
      type,
      content: sha256,
      mode: String(mode),
      owner: `${uid}:${gid}`,
      target,
      device: device.join(':'),
      time,
      attributes: attributes.map(([key, value]) => `${key}=${value.toString('hex')}`).join(' '),
    },
  };
}

function meaningOf(path: string, type: TarType): { path: string; type: LayerFileType } {
  const slash = path.lastIndexOf('/') + 1;
  const base = path.slice(slash);
  if (base === OPAQUE) return { path: `${path.slice(0, slash)}*`, type: 'replacement' };
  if (base.startsWith(WHITEOUT)) return { path: path.slice(0, slash) + base.slice(WHITEOUT.length), type: 'deletion' };
  return { path, type };
}

function sorted<T extends LayerFile>(files: readonly T[]): T[] {
  return files.toSorted((one, other) => (one.path < other.path ? -1 : 1));
}
