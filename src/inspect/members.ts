import { type FileHandle, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { bad, IMAGES, isKnown, VOLUMES } from '../archive/layout.ts';
import { seekable } from '../archive/seekable.ts';
import { errnoOf, GantryError, messageOf } from '../errors.ts';
import { openRegular } from './form.ts';
import { type Visit, walkArchive } from './walk.ts';

/** The largest member that is read as a whole; memory and layers are read in parts. */
const MAX_WHOLE_BYTES = 1024 * 1024 * 1024;
const PIECE_BYTES = 1024 * 1024;

/** The files of one checkpoint, wherever they lie. Errors of its functions: BAD_ARCHIVE, NOT_FOUND. */
export abstract class Members implements AsyncDisposable {
  readonly where: string;
  /** In bytes, by name as in {@link isKnown}. */
  readonly sizes: ReadonlyMap<string, number>;

  constructor(where: string, sizes: ReadonlyMap<string, number>) {
    this.where = where;
    this.sizes = sizes;
  }

  has(name: string): boolean {
    return this.sizes.has(name);
  }

  /** As much of a part of a member as there is; to its end without a length. */
  async read(name: string, from = 0, length = Number.MAX_SAFE_INTEGER): Promise<Buffer> {
    const wanted = Math.max(0, Math.min(length, this.#sizeOf(name) - from));
    if (wanted > MAX_WHOLE_BYTES) throw bad(this.where, `${name} has ${wanted} bytes, more than are read as a whole`);
    const buffer = Buffer.allocUnsafe(wanted);
    return buffer.subarray(0, await this.fill(name, buffer, from));
  }

  /** The text of a small one; undefined when there is none. */
  async text(name: string): Promise<string | undefined> {
    return this.has(name) ? (await this.read(name)).toString('utf8') : undefined;
  }

  /** All of one, in pieces. */
  async *content(name: string, signal?: AbortSignal): AsyncGenerator<Buffer> {
    const size = this.#sizeOf(name);
    for (let at = 0; at < size; ) {
      signal?.throwIfAborted();
      const piece = await this.read(name, at, PIECE_BYTES);
      if (piece.length === 0) throw bad(this.where, `${name} ends at byte ${at}, and has ${size}`);
      at += piece.length;
      yield piece;
    }
  }

  /** How many bytes it could read. */
  protected abstract fill(name: string, buffer: Buffer, from: number): Promise<number>;
  abstract [Symbol.asyncDispose](): Promise<void>;

  #sizeOf(name: string): number {
    const size = this.sizes.get(name);
    if (size === undefined) throw new GantryError('NOT_FOUND', `there is no ${name} in ${this.where}`);
    return size;
  }
}

/** Of a folder as gantry checkpoint makes it, or an archive that was unpacked. */
export class FolderMembers extends Members {
  readonly #folder: string;
  readonly #isTemporary: boolean;

  private constructor(where: string, folder: string, sizes: ReadonlyMap<string, number>, isTemporary: boolean) {
    super(where, sizes);
    this.#folder = folder;
    this.#isTemporary = isTemporary;
  }

  /**
   * Errors: NOT_FOUND; BAD_ARCHIVE, for a member that is no regular file.
   * @param options `where`: what it is called in errors; `isTemporary`: the folder is removed with this
   */
  static async open(folder: string, options: { where?: string; isTemporary?: boolean } = {}): Promise<FolderMembers> {
    const { where = folder, isTemporary = false } = options;
    const sizes = new Map<string, number>();
    for (const prefix of ['', `${IMAGES}/`, `${VOLUMES}/`]) {
      const entries = await readdir(join(folder, prefix)).catch((error: unknown): string[] => {
        if (prefix === `${VOLUMES}/` && errnoOf(error) === 'ENOENT') return [];
        throw new GantryError('NOT_FOUND', `${where} holds no checkpoint: ${messageOf(error)}`, { cause: error });
      });
      for (const entry of entries) {
        const name = `${prefix}${entry}`;
        if (!isKnown(name)) continue;
        await using file = await openRegular(join(folder, name), false).catch((error: unknown) => {
          if (errnoOf((error as Error).cause) === 'EACCES') throw error;
          throw bad(where, `${name} cannot be read: ${messageOf(error)}`);
        });
        sizes.set(name, (await file.stat()).size);
      }
    }
    return new FolderMembers(where, folder, sizes, isTemporary);
  }

  protected override async fill(name: string, buffer: Buffer, from: number): Promise<number> {
    await using file = await openRegular(join(this.#folder, name), false);
    return await fillFrom(file, buffer, from);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isTemporary) await rm(this.#folder, { recursive: true, force: true });
  }
}

/** Of an archive that is neither compressed nor encrypted, read where they lie. */
export class ArchiveMembers extends Members {
  readonly #file: FileHandle;
  readonly #places: ReadonlyMap<string, number>;
  readonly #ownsFile: boolean;

  private constructor(where: string, file: FileHandle, { sizes, places }: Index, ownsFile: boolean) {
    super(where, sizes);
    this.#file = file;
    this.#places = places;
    this.#ownsFile = ownsFile;
  }

  /** Reads the headers only. The file is closed with `own`; after an error it is the caller's. Errors: BAD_ARCHIVE. */
  static async open(path: string, file: FileHandle, signal?: AbortSignal): Promise<MembersOfAll> {
    const { size } = await file.stat();
    const index = await indexOf(path, file, { start: 0, end: size }, signal);
    const containers = new Map<string, Members>();
    for (const [name, place] of index.containers) {
      const where = `${path}: ${name}`;
      containers.set(name, new ArchiveMembers(where, file, await indexOf(where, file, place, signal), false));
    }
    return { own: new ArchiveMembers(path, file, index, true), containers };
  }

  protected override fill(name: string, buffer: Buffer, from: number): Promise<number> {
    return fillFrom(this.#file, buffer, (this.#places.get(name) ?? 0) + from);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ownsFile) await this.#file.close();
  }
}

/** Those of a checkpoint, and of a pod's those of each container. Disposing `own` disposes all. */
export interface MembersOfAll {
  readonly own: Members;
  readonly containers: ReadonlyMap<string, Members>;
}

interface Place {
  readonly start: number;
  readonly end: number;
}

interface Index {
  readonly sizes: ReadonlyMap<string, number>;
  /** Where each begins in the file, in bytes. */
  readonly places: ReadonlyMap<string, number>;
  readonly containers: ReadonlyMap<string, Place>;
}

async function indexOf(where: string, file: FileHandle, { start, end }: Place, signal?: AbortSignal): Promise<Index> {
  const sizes = new Map<string, number>();
  const places = new Map<string, number>();
  const containers = new Map<string, Place>();
  const placeOf: (...visited: Parameters<Visit>) => Place = (name, { size }, { position }) => {
    const at = start + position;
    if (at + size > end) throw bad(where, `it ends at byte ${end - start}, in the middle of ${name}`);
    return { start: at, end: at + size };
  };
  await walkArchive(seekable(file, end, start), where, {
    member: (name, member, tar) => {
      places.set(name, placeOf(name, member, tar).start);
      sizes.set(name, member.size);
    },
    container: (name, member, tar) => void containers.set(name, placeOf(name, member, tar)),
    signal,
  });
  return { sizes, places, containers };
}

async function fillFrom(file: FileHandle, buffer: Buffer, from: number): Promise<number> {
  let filled = 0;
  while (filled < buffer.length) {
    const { bytesRead } = await file.read(buffer, filled, buffer.length - filled, from + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return filled;
}
