import { createHash } from 'node:crypto';
import { upperOfLayer } from '../archive/layer.ts';
import { bad, checkSums, DELETED, IMAGES, LAYER, MANIFEST, type Manifest, SHM, VOLUMES } from '../archive/layout.ts';
import type { Sum } from '../archive/writer.ts';
import { readImages } from '../criu/checkpoint.ts';
import { badImage } from '../criu/cursor.ts';
import { checkEarlierPages } from '../criu/earlier.ts';
import { decodeImage } from '../criu/image.ts';
import { kindOf } from '../criu/kinds.ts';
import { flatten } from '../criu/process-tree.ts';
import { messageOf } from '../errors.ts';
import { layerContent } from './layer-content.ts';
import type { Checkpoint } from './open.ts';
import { sum } from './units.ts';

export interface VerifyOptions {
  readonly signal?: AbortSignal | undefined;
  /** Told while members are read: bytes so far, and of all. */
  readonly onRead?: (bytes: number, of: number) => void;
}

export interface Verified {
  /** How many files were read. */
  readonly members: number;
  /** How many of them were compared with a sum: all of an archive of gantry's, what is small of a folder. */
  readonly compared: number;
  readonly bytes: number;
  readonly images: number;
}

/**
 * Reads everything there is, of its parents, too, and compares and decodes what can be.
 * Errors: BAD_ARCHIVE, with the first thing that is wrong.
 */
export async function verify(checkpoint: Checkpoint, options: VerifyOptions = {}): Promise<Verified> {
  const all = { members: 0, compared: 0, bytes: 0, images: 0 };
  for (let one: Checkpoint | undefined = checkpoint; one !== undefined; one = one.parent) {
    const verified = await verifyOne(one, options);
    for (const key of ['members', 'compared', 'bytes', 'images'] as const) all[key] += verified[key];
  }
  if (checkpoint.parent !== undefined) await checkEarlierPages(checkpoint.images);
  return all;
}

async function verifyOne(checkpoint: Checkpoint, options: VerifyOptions): Promise<Verified> {
  const { members, manifest, packing } = checkpoint;
  // Of a pod's it says which container, too.
  const path = members.where;
  const sums = await sumsOf(checkpoint, options);
  if (manifest !== undefined) {
    checkShape(path, manifest);
    const isSummed = (name: string) => packing !== 'folder' || manifest.members[name] !== undefined;
    checkSums(path, manifest, new Map([...sums].filter(([name]) => isSummed(name))));
  }
  const images = await decodeAll(checkpoint, options.signal);
  await checkMemory(checkpoint);
  const volumes = [...members.sizes.keys()].filter((name) => name.startsWith(`${VOLUMES}/`));
  for (const name of [LAYER, SHM, ...volumes]) {
    if (members.has(name)) await checkLayer(checkpoint, name, options.signal);
  }
  const bytes = sum(members.sizes.values());
  const compared = [...sums.keys()].filter((name) => manifest?.members[name] !== undefined).length;
  return { members: sums.size, compared, bytes, images };
}

/** What parsing a manifest leaves open. */
function checkShape(path: string, { members }: Manifest): void {
  const isWhole = Object.values(members ?? { none: null }).every((told) => typeof told === 'object' && told !== null);
  if (!isWhole) throw bad(path, `its ${MANIFEST} has no sums where they should be`);
}

async function sumsOf({ members }: Checkpoint, { signal, onRead }: VerifyOptions): Promise<Map<string, Sum>> {
  const sums = new Map<string, Sum>();
  const of = sum(members.sizes.values());
  let bytes = 0;
  for (const name of members.sizes.keys()) {
    const hash = createHash('sha256');
    let size = 0;
    for await (const piece of members.content(name, signal)) {
      hash.update(piece);
      size += piece.length;
      bytes += piece.length;
      onRead?.(bytes, of);
    }
    sums.set(name, { size, sha256: hash.digest('hex') });
  }
  return sums;
}

/** Every image of messages, also those that inspect makes no use of. */
async function decodeAll({ images }: Checkpoint, signal: AbortSignal | undefined): Promise<number> {
  let count = 0;
  for (const name of await images.names()) {
    signal?.throwIfAborted();
    if (kindOf(name) === undefined) continue;
    decodeImage(name, await images.read(name));
    count++;
  }
  return count;
}

/** That the images fit together, and that all memory is there that the page maps tell of. */
async function checkMemory({ images, members }: Checkpoint): Promise<void> {
  const { processes } = await readImages(images);
  for (const { memory } of flatten(processes)) {
    const { pages, bytes } = memory?.pageMap ?? {};
    if (pages === undefined || bytes === undefined || bytes === 0) continue;
    const size = members.sizes.get(`${IMAGES}/${pages}`);
    if (size === undefined) throw badImage(pages, 'it is missing');
    if (size < bytes) throw badImage(pages, `it has ${size} bytes, and its map tells of ${bytes}`);
  }
}

async function checkLayer({ members }: Checkpoint, name: string, signal: AbortSignal | undefined): Promise<void> {
  const deleted = name === LAYER ? deletedFiles(members.where, await members.text(DELETED)) : [];
  // Rights of files are a matter of who restores them.
  const options = { allowsSetuid: true, deleted, isPlain: name !== LAYER };
  for await (const _ of upperOfLayer(layerContent(members, name, signal), members.where, options));
}

function deletedFiles(path: string, text: string | undefined): readonly string[] {
  if (text === undefined) return [];
  try {
    const names: unknown = JSON.parse(text);
    if (Array.isArray(names) && names.every((name) => typeof name === 'string')) return names;
  } catch (error) {
    throw bad(path, `its ${DELETED} is no JSON: ${messageOf(error)}`);
  }
  throw bad(path, `its ${DELETED} is no list of names`);
}

/** Whether every member that the manifest tells of is there in its size, also of its parents; nothing is read. undefined: it is. */
export function incompleteness(checkpoint: Checkpoint): string | undefined {
  for (let one = checkpoint.parent; one !== undefined; one = one.parent) {
    const missing = missingIn(one);
    if (missing !== undefined) return `of its parent ${one.path}: ${missing}`;
  }
  return missingIn(checkpoint);
}

function missingIn({ manifest, members }: Checkpoint): string | undefined {
  for (const [name, told] of Object.entries(manifest?.members ?? {})) {
    const found = members.sizes.get(name);
    if (found === undefined) return `it lacks ${name}`;
    if (found !== told?.size) return `${name} has ${found} bytes instead of ${told?.size}`;
  }
  if (manifest !== undefined && !members.has(MANIFEST)) return `it lacks ${MANIFEST}`;
  return members.has(`${IMAGES}/inventory.img`) ? undefined : 'it lacks the images of CRIU';
}
