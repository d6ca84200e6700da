import { createHash } from 'node:crypto';
import type { Stats } from 'node:fs';
import { type FileHandle, mkdir, open, realpath, rename, symlink, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { bad, IMAGES, type Manifest } from '../archive/layout.ts';
import type { Place } from '../archive/reader.ts';
import { PAGE } from '../archive/tar.ts';
import { encodedImage } from '../criu/encode.ts';
import { ImageSet } from '../criu/image-set.ts';
import { bytesOf, min, openPageMap, PARENT, type PageRun, PRESENT } from '../criu/page-map.ts';
import { folderSource } from '../criu/source.ts';
import type { PagemapEntry } from '../gen/criu.ts';
import { checkSpace } from './images.ts';

/** A restore begins when no more than this is left to be read: it does not wait long at its gate then. */
const NEAR_BYTES = 4 * 1024 ** 3;
const PIECE_BYTES = 1024 * 1024;
/** CRIU's name for the folder with the dump before. */
const BEFORE = 'parent';
/** CRIU before 4.2 counts pages in 32 bits. */
const MOST_PAGES = 2n ** 32n - 1n;

/**
 * Memory that CRIU reads out of the archive itself, while we read it as well and sum it up: it is neither copied nor
 * held twice. CRIU counts from the beginning of a file of pages, and passes over what it does not need only in the files of
 * an earlier dump. So each process gets a page map that says that all of its pages are in the dump before, and that one
 * has pages at address 0, which nobody asks for, for everything in the archive before the ones that count.
 */
export class PagesInPlace implements AsyncDisposable {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #stop = new AbortController();
  readonly #near = Promise.withResolvers<void>();
  #verified: Promise<void> = Promise.resolve();
  #left = 0;

  private constructor(path: string, file: FileHandle) {
    this.#path = path;
    this.#file = file;
  }

  /**
   * Puts what CRIU needs into the folder with the other images, and begins to read. Pages that CRIU cannot read where
   * they are (of memory that processes share, say) are copied into it.
   *
   * @param after what is to be read before
   * Errors: BAD_ARCHIVE, NO_SPACE.
   */
  static async prepare(
    path: string,
    folder: string,
    left: ReadonlyMap<string, Place>,
    members: Manifest['members'] | undefined,
    after: Promise<unknown>,
  ): Promise<PagesInPlace> {
    const pages = new PagesInPlace(path, await open(path, 'r'));
    try {
      const before = await pages.#file.stat();
      const images = join(folder, IMAGES);
      const set = await ImageSet.open(folderSource(images));
      const maps = await pageMapsIn(set);
      const inPlace: [name: string, place: Place][] = [];
      for (const [name, place] of left) {
        const own = maps.filter((map) => `${IMAGES}/${map.pages}` === name);
        if (own.length === 1 && own[0] !== undefined && canStay(own[0], place)) {
          await putInPlace(set, images, own[0], await realpath(path), place);
          inPlace.push([name, place]);
        } else {
          await checkSpace(images, place.size);
          const hash = await pages.#read(place, join(folder, name));
          pages.#compare(name, hash, members);
        }
      }
      pages.#verified = pages.#verify(inPlace, members, before, after);
      pages.#verified.catch(() => undefined);
      return pages;
    } catch (error) {
      await pages[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** When so much has been read that {@link verified} will not take much longer than CRIU. */
  get near(): Promise<void> {
    return this.#near.promise;
  }

  /** When all is known to be as the manifest says. Errors: BAD_ARCHIVE. */
  get verified(): Promise<void> {
    return this.#verified;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#verified.catch(() => undefined);
    await this.#file.close();
  }

  async #verify(
    inPlace: readonly [name: string, place: Place][],
    members: Manifest['members'] | undefined,
    before: Stats,
    after: Promise<unknown>,
  ): Promise<void> {
    try {
      this.#left = inPlace.reduce((sum, [, { size }]) => sum + size, 0);
      this.#tellNear();
      await after.catch(() => undefined);
      for (const [name, place] of inPlace) this.#compare(name, await this.#read(place), members);
      // Between our looking at it and CRIU's, nobody may have written into it.
      const now = await this.#file.stat();
      if (now.mtimeMs !== before.mtimeMs || now.ctimeMs !== before.ctimeMs || now.size !== before.size)
        throw bad(this.#path, 'it was changed while it was read');
    } finally {
      this.#near.resolve();
    }
  }

  #compare(name: string, sha256: string, members: Manifest['members'] | undefined): void {
    if (members !== undefined && members[name]?.sha256 !== sha256)
      throw bad(this.#path, `${name} is not what its manifest says`);
  }

  #tellNear(): void {
    if (this.#left <= NEAR_BYTES) this.#near.resolve();
  }

  /** One piece is summed up while the next one is read. */
  async #read({ at, size }: Place, into?: string): Promise<string> {
    await using copy = into === undefined ? undefined : await open(into, 'wx', 0o600);
    const hash = createHash('sha256');
    const buffers = [Buffer.allocUnsafe(PIECE_BYTES), Buffer.allocUnsafe(PIECE_BYTES)] as const;
    const read = async (from: number, buffer: Buffer) =>
      (await this.#file.read(buffer, 0, Math.min(size - from, buffer.length), at + from)).bytesRead;
    let coming = read(0, buffers[0]);
    for (let done = 0, turn = 0; done < size; turn++) {
      this.#stop.signal.throwIfAborted();
      const bytes = await coming;
      if (bytes === 0) throw bad(this.#path, `it ends ${size - done} bytes too early`);
      const piece = (buffers[turn % 2] as Buffer).subarray(0, bytes);
      done += bytes;
      this.#left -= bytes;
      this.#tellNear();
      if (done < size) coming = read(done, buffers[(turn + 1) % 2] as Buffer);
      await copy?.writeFile(piece);
      hash.update(piece);
    }
    return hash.digest('hex');
  }
}

/** What counts of a page map: of its runs, which may be many, none is held. */
interface OwnMap {
  /** Of its process; undefined for memory that processes share. */
  readonly pid: string | undefined;
  /** The file with the bytes. */
  readonly pages: string;
  /** In that file. */
  readonly bytes: number;
  /** Address of the first page. */
  readonly start: bigint | undefined;
  readonly isAllHere: boolean;
}

async function pageMapsIn(set: ImageSet): Promise<OwnMap[]> {
  const maps: OwnMap[] = [];
  for (const kind of ['PAGEMAP', 'SHMEM_PAGEMAP'] as const) {
    for (const id of set.idsOf(kind)) {
      const map = await openPageMap(set, kind, id, PAGE);
      if (map !== undefined)
        maps.push({ pid: kind === 'PAGEMAP' ? id : undefined, pages: map.pages, ...sumOf(map.runs) });
    }
  }
  return maps;
}

function sumOf(runs: Iterable<PageRun>): Pick<OwnMap, 'bytes' | 'start' | 'isAllHere'> {
  let bytes = 0;
  let start: bigint | undefined;
  let isAllHere = true;
  for (const run of runs) {
    start ??= run.start;
    if (run.where === 'present') bytes += bytesOf(run);
    else isAllHere = false;
  }
  return { bytes, start, isAllHere };
}

function canStay({ pid, bytes, start, isAllHere }: OwnMap, { size }: Place): boolean {
  return pid !== undefined && isAllHere && bytes === size && start !== undefined && start >= BigInt(PAGE);
}

async function putInPlace(set: ImageSet, images: string, map: OwnMap, archive: string, { at }: Place): Promise<void> {
  const { pid = '', pages, start = 0n } = map;
  const folder = join(images, BEFORE);
  const name = `pagemap-${pid}.img`;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const write = async (path: string, flags: number, first: Iterable<PagemapEntry>) => {
    const runs = (await openPageMap(set, 'PAGEMAP', pid, PAGE))?.runs ?? [];
    await writePageMap(path, pages, entriesOf(first, runs, flags));
  };
  await write(join(folder, name), PRESENT, emptyRuns(BigInt(at / PAGE), start / BigInt(PAGE)));
  await write(join(images, `${name}.new`), PARENT, []);
  await rename(join(images, `${name}.new`), join(images, name));
  await writeFile(join(images, pages), '', { flag: 'wx', mode: 0o600 });
  // Relative, as CRIU follows it when the root folder is the container's already.
  await symlink(relative(folder, archive), join(folder, pages));
}

/** At address 0, below all others. @param most how many there are from there to the first one that counts */
function* emptyRuns(pages: bigint, most: bigint): Generator<PagemapEntry, void> {
  for (let left = pages; left > 0n; ) {
    const some = [left, most, MOST_PAGES].reduce(min);
    yield entryOf(0n, some, PRESENT);
    left -= some;
  }
}

function* entriesOf(
  first: Iterable<PagemapEntry>,
  runs: Iterable<PageRun>,
  flags: number,
): Generator<PagemapEntry, void> {
  yield* first;
  for (const { start, end } of runs) yield entryOf(start, (end - start) / BigInt(PAGE), flags);
}

function entryOf(vaddr: bigint, pages: bigint, flags: number): PagemapEntry {
  return { vaddr, compat_nr_pages: Number(pages), flags };
}

function writePageMap(path: string, pages: string, entries: Iterable<PagemapEntry>): Promise<void> {
  const head = { pages_id: Number(/[0-9]+/.exec(pages)?.[0]) };
  return writeFile(path, encodedImage('PAGEMAP', entries, { head }), { flag: 'wx', mode: 0o600 });
}
