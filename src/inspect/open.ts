import { stat } from 'node:fs/promises';
import { ancestorsOf } from '../archive/chain.ts';
import { bad, IMAGES, MANIFEST, type Manifest, NO_PARENT, parseManifest, SPEC, STATISTICS } from '../archive/layout.ts';
import { archiveIn } from '../archive/oci.ts';
import { checkPod, type PodManifest } from '../archive/pod.ts';
import type { ImageSource } from '../criu/source.ts';
import { errnoOf, GantryError, messageOf } from '../errors.ts';
import { openRegular, type Packing, packingIn } from './form.ts';
import { ArchiveMembers, FolderMembers, type Members, type MembersOfAll } from './members.ts';
import { sum } from './units.ts';
import { unpack } from './unpack.ts';

export interface OpenOptions {
  /** age identities ("AGE-SECRET-KEY-…"), for an encrypted archive. */
  readonly identities?: readonly string[];
  readonly signal?: AbortSignal | undefined;
  /** Told of each piece that is unpacked, in bytes. */
  readonly onUnpacked?: ((bytes: number) => void) | undefined;
  /** Which members are unpacked; all when left out. */
  readonly keeps?: ((name: string) => boolean) | undefined;
}

const FORBIDDEN = new Set(['EACCES', 'EPERM']);

/** What was opened: a checkpoint of one container, or of a pod with several. */
export interface Opened extends AsyncDisposable {
  /** Of a pod; its containers are what it says. */
  readonly pod?: PodManifest;
  /** One at least. */
  readonly containers: readonly Checkpoint[];
}

/**
 * A folder and an archive, also that of an OCI image layout, are read where they are; one that is compressed or encrypted is
 * unpacked into a folder that nobody else may enter, until the result is disposed.
 *
 * Errors: NOT_FOUND; BAD_ARCHIVE; UNSUPPORTED, for a version not known here; NO_SPACE; USAGE without its key.
 */
export async function openAll(path: string, options: OpenOptions = {}): Promise<Opened> {
  const found = await stat(path).catch((error: unknown) => {
    if (FORBIDDEN.has(errnoOf(error) ?? '')) throw new GantryError('USAGE', messageOf(error), { cause: error });
    throw new GantryError('NOT_FOUND', `there is no checkpoint ${path}: ${messageOf(error)}`, { cause: error });
  });
  const archive = found.isDirectory() ? await archiveIn(path) : path;
  const { own, containers, packing, sizeBytes } =
    archive === undefined ? await openFolder(path) : await openFile(archive, options);
  const rest = { path, packing, sizeBytes };
  const dispose = { [Symbol.asyncDispose]: () => own[Symbol.asyncDispose]() };
  try {
    if (containers.size === 0) {
      const checkpoint = await Checkpoint.of('', { ...rest, members: own });
      return { ...dispose, containers: [archive === undefined ? await withParents(checkpoint) : checkpoint] };
    }
    const texts = new Map<string, string>();
    const all: Checkpoint[] = [];
    for (const [name, members] of containers) {
      texts.set(name, (await members.text(MANIFEST)) ?? '');
      all.push(await Checkpoint.of(name, { ...rest, members }));
    }
    return { ...dispose, pod: checkPod((await own.text(MANIFEST)) ?? '', path, texts), containers: all };
  } catch (error) {
    await own[Symbol.asyncDispose]();
    throw error;
  }
}

/** A checkpoint of one container whose files can be read; nothing of it is verified. */
export class Checkpoint implements AsyncDisposable {
  /** In the archive of its pod; '' of one that is on its own. */
  readonly name: string;
  readonly path: string;
  readonly packing: Packing | 'folder';
  /** Of the file, or of all files of the folder; of a pod's, of all of it. */
  readonly sizeBytes: number;
  readonly members: Members;
  /** undefined: it was not made by gantry. */
  readonly manifest: Manifest | undefined;
  /** Of a folder that has only what was written since. */
  readonly parent: Checkpoint | undefined;
  #owner: AsyncDisposable | undefined;

  private constructor(
    name: string,
    fields: Pick<Checkpoint, 'path' | 'packing' | 'sizeBytes' | 'members' | 'manifest' | 'parent'>,
  ) {
    this.name = name;
    this.path = fields.path;
    this.packing = fields.packing;
    this.sizeBytes = fields.sizeBytes;
    this.members = fields.members;
    this.manifest = fields.manifest;
    this.parent = fields.parent;
  }

  /** Its members stay their owner's to dispose. Errors: BAD_ARCHIVE, UNSUPPORTED. */
  static async of(
    name: string,
    fields: Pick<Checkpoint, 'path' | 'packing' | 'sizeBytes' | 'members'>,
  ): Promise<Checkpoint> {
    const { members } = fields;
    const text = await members.text(MANIFEST);
    if (text === undefined && !members.has(SPEC) && !members.has(`${IMAGES}/inventory.img`))
      throw bad(members.where, `it has neither ${MANIFEST} nor ${SPEC} nor images of CRIU`);
    const manifest = text === undefined ? undefined : parseManifest(text, members.where);
    if (manifest?.parent !== undefined && fields.packing !== 'folder') throw bad(members.where, NO_PARENT);
    return new Checkpoint(name, { ...fields, manifest, parent: undefined });
  }

  /** The same one, with what it needs. */
  after(parent: Checkpoint): Checkpoint {
    return new Checkpoint(this.name, { ...this, parent });
  }

  /** The one container of a checkpoint, or one of a pod's by its name. Errors: as for {@link openAll}; USAGE without a name. */
  static async open(path: string, options: OpenOptions & { readonly container?: string } = {}): Promise<Checkpoint> {
    const opened = await openAll(path, options);
    const { containers } = opened;
    const { container } = options;
    const one = containers.find(({ name }) => (container === undefined ? containers.length === 1 : name === container));
    if (one !== undefined) {
      one.#owner = opened;
      return one;
    }
    await opened[Symbol.asyncDispose]();
    const names = containers.map(({ name }) => name || '(only one)').join(', ');
    if (container !== undefined) {
      throw new GantryError('NOT_FOUND', `${path} has no container ${container}, but ${names}`);
    }
    throw new GantryError('USAGE', `${path} is the checkpoint of a pod with the containers ${names}`, {
      hint: 'say which: --container NAME',
    });
  }

  /** CRIU's images; its statistics, which runc has put beside them, among them. */
  get images(): ImageSource {
    const { members } = this;
    const prefix = `${IMAGES}/`;
    return {
      names: async () => {
        const names = [...members.sizes.keys()].filter((name) => name.startsWith(prefix));
        const inImages = names.map((name) => name.slice(prefix.length));
        return members.has(STATISTICS) && !inImages.includes(STATISTICS) ? [...inImages, STATISTICS] : inImages;
      },
      read: (name, from, length) =>
        members.read(members.has(`${prefix}${name}`) ? `${prefix}${name}` : name, from, length),
      parent: this.parent?.images,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owner?.[Symbol.asyncDispose]();
  }
}

interface Files extends MembersOfAll {
  readonly packing: Checkpoint['packing'];
  readonly sizeBytes: number;
}

/** Folders have nothing to be disposed. Errors: BAD_ARCHIVE, UNSUPPORTED. */
async function withParents(checkpoint: Checkpoint): Promise<Checkpoint> {
  const { path, manifest } = checkpoint;
  const ancestors = manifest === undefined ? [] : await ancestorsOf(path, manifest);
  let parent: Checkpoint | undefined;
  for (const { folder } of ancestors.reverse()) {
    const { own, packing, sizeBytes } = await openFolder(folder);
    const one = await Checkpoint.of('', { path: folder, packing, sizeBytes, members: own });
    parent = parent === undefined ? one : one.after(parent);
  }
  return parent === undefined ? checkpoint : checkpoint.after(parent);
}

async function openFolder(path: string): Promise<Files> {
  const own = await FolderMembers.open(path);
  return { own, containers: new Map(), packing: 'folder', sizeBytes: sum(own.sizes.values()) };
}

async function openFile(path: string, options: OpenOptions): Promise<Files> {
  const file = await openRegular(path, true);
  let isKept = false;
  try {
    const { size: sizeBytes } = await file.stat();
    const packing = await packingIn(file);
    if (packing !== 'plain') return { ...(await unpack(path, packing, options)), packing, sizeBytes };
    const members = await ArchiveMembers.open(path, file, options.signal);
    isKept = true;
    return { ...members, packing, sizeBytes };
  } finally {
    if (!isKept) await file.close();
  }
}
