import { createHash } from 'node:crypto';
import { type FileHandle, link, mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { type Compression, DUMP_LOG, IMAGES, MANIFEST, type Manifest, STATISTICS } from '../archive/layout.ts';
import { ArchiveOutput } from '../archive/output.ts';
import { Pump } from '../archive/pump.ts';
import { ArchiveWriter, type Sum } from '../archive/writer.ts';
import { exists, makePrivateFolder, syncFolder } from '../durable.ts';
import { errnoOf, GantryError, messageOf } from '../errors.ts';
import { run } from '../runtime/program.ts';
import { ImageFolder } from './images.ts';

export type Content = Uint8Array | string | AsyncIterable<Uint8Array>;

/** Where the state of one container goes. */
export interface Destination extends AsyncDisposable {
  /** Folder for CRIU's images. */
  readonly images: string;
  /** Folder for CRIU's log and statistics. */
  readonly work: string;
  /** What a rollback removes, after a crash as well. */
  readonly rest: string;
  /** Before the dump. @param processes how many will be dumped */
  expect(processes: number): Promise<void>;
  /** After the dump. @param isWhole false: it has failed. Errors: those of writing what came of it */
  dumped(isWhole: boolean): Promise<void>;
  add(name: string, content: Content): Promise<void>;
  /** After everything was added. */
  finish(manifest: Omit<Manifest, 'members'>): Promise<void>;
}

/** A folder: the images stay where CRIU has written them. Nothing in it is summed up but what is small. */
export class FolderDestination implements Destination {
  readonly rest: string;
  readonly #sums = new Map<string, Sum>();
  #manifest = '';
  #isDone = false;

  private constructor(folder: string) {
    this.rest = folder;
  }

  static async open(folder: string): Promise<FolderDestination> {
    if (await exists(folder)) throw thereAlready(folder, 'name a folder that does not exist yet');
    try {
      await mkdir(folder, { mode: 0o700 });
    } catch (error) {
      throw cannotMake(folder, error);
    }
    const made = new FolderDestination(folder);
    await mkdir(made.images, { mode: 0o700 });
    return made;
  }

  get images(): string {
    return join(this.rest, IMAGES);
  }

  get work(): string {
    return this.rest;
  }

  expect(): Promise<void> {
    return Promise.resolve();
  }

  dumped(): Promise<void> {
    return Promise.resolve();
  }

  async add(name: string, content: Content): Promise<void> {
    if (name === STATISTICS || name === DUMP_LOG) return; // CRIU has put them there
    const hash = createHash('sha256');
    let size = 0;
    await makePrivateFolder(dirname(join(this.rest, name)));
    await using file = await open(join(this.rest, name), 'wx', 0o600);
    for await (const piece of pieces(content)) {
      hash.update(piece);
      size += piece.length;
      await file.writeFile(piece);
    }
    await file.sync();
    this.#sums.set(name, { size, sha256: hash.digest('hex') });
  }

  finish(manifest: Omit<Manifest, 'members'>): Promise<void> {
    this.#manifest = manifestText({ ...manifest, members: Object.fromEntries(this.#sums) });
    return Promise.resolve();
  }

  /** Makes it a checkpoint: the manifest comes when everything else is on the disk. */
  async seal(): Promise<void> {
    await run('sync', ['-f', this.rest], { timeoutMs: 600_000 });
    await this.add(MANIFEST, this.#manifest);
    await syncFolder(this.rest);
    this.#isDone = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isDone) await rm(this.rest, { recursive: true, force: true });
  }
}

/** A new archive, under another name until it is whole. */
export class ArchiveFile implements AsyncDisposable {
  readonly output: ArchiveOutput;
  /** What it is called meanwhile. */
  readonly partial: string;
  readonly #path: string;
  readonly #file: FileHandle;

  private constructor(path: string, file: FileHandle, output: ArchiveOutput) {
    this.#path = path;
    this.partial = partialOf(path);
    this.#file = file;
    this.output = output;
  }

  static async open(path: string, compression: Compression, recipients: readonly string[]): Promise<ArchiveFile> {
    if (await exists(path)) throw thereAlready(path, 'name a file that does not exist yet');
    // One that an agent has left which died: its journal would have removed it by now.
    await rm(partialOf(path), { force: true });
    const file = await open(partialOf(path), 'wx', 0o600).catch((error: unknown) => {
      throw cannotMake(path, error);
    });
    try {
      return new ArchiveFile(path, file, await ArchiveOutput.open(file, compression, recipients));
    } catch (error) {
      await file.close();
      await rm(partialOf(path), { force: true });
      throw new GantryError('USAGE', `cannot encrypt ${path}: ${messageOf(error)}`, { cause: error });
    }
  }

  async finish(): Promise<void> {
    await this.output.end();
    await this.#file.sync();
    // Not by renaming, which would replace what somebody else has put there meanwhile.
    await link(this.partial, this.#path).catch((error: unknown) => {
      if (errnoOf(error) === 'EEXIST') throw thereAlready(this.#path, 'name a file that does not exist yet');
      throw error;
    });
    await rm(this.partial);
    await syncFolder(dirname(this.#path));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
    await rm(this.partial, { force: true });
  }
}

/** Two images of each process, and some for memory that several share; what comes beyond is written to the folder. */
const SPARE_PIPES = 16;

/**
 * A container's archive, written while CRIU dumps: the pages go from CRIU through FIFOs into the file, once. The other
 * images are small, and are put into it from a folder in memory. It is alone in its file, or one member of a pod's.
 */
export class ArchiveDestination implements Destination {
  readonly rest: string;
  /** Text of the manifest, once it is finished. */
  manifest = '';
  readonly #folder: ImageFolder;
  readonly #output: ArchiveOutput;
  readonly #writer: ArchiveWriter;
  readonly #fifos: string[] = [];
  #pump: Pump | undefined;

  private constructor(archive: ArchiveFile, folder: ImageFolder) {
    this.rest = archive.partial;
    this.#folder = folder;
    this.#output = archive.output;
    this.#writer = new ArchiveWriter(archive.output);
  }

  static async open(node: Node, operation: string, archive: ArchiveFile): Promise<ArchiveDestination> {
    const folder = await ImageFolder.make(node, operation, 'source');
    await mkdir(folder.images, { mode: 0o700 });
    return new ArchiveDestination(archive, folder);
  }

  get images(): string {
    return this.#folder.images;
  }

  get work(): string {
    return this.#folder.path;
  }

  async expect(processes: number): Promise<void> {
    await this.#writer.folder(IMAGES);
    const { raw } = this.#output;
    // What is compressed or encrypted has to pass through the agent, for which the container would stand still.
    if (raw === undefined) return;
    for (let id = 1; id <= 2 * processes + SPARE_PIPES; id++) this.#fifos.push(join(this.images, `pages-${id}.img`));
    await run('mkfifo', ['-m', '600', ...this.#fifos]);
    this.#pump = new Pump(this.#fifos, raw.fd, raw.at);
  }

  async dumped(isWhole: boolean): Promise<void> {
    const result = await this.#endPump();
    if (!isWhole) return;
    if (result !== undefined) await this.#writer.adopt(`${IMAGES}/`, result);
    for (const name of (await readdir(this.images)).sort()) {
      const path = join(this.images, name);
      if ((await stat(path)).isFile()) await this.#writer.addFile(`${IMAGES}/${name}`, path);
      await rm(path);
    }
  }

  async add(name: string, content: Content): Promise<void> {
    if (typeof content === 'string' || content instanceof Uint8Array) await this.#writer.add(name, content);
    else if (this.#output.canReserve) await this.#writer.addStream(name, content);
    else await this.#addBySize(name, content);
  }

  async finish(manifest: Omit<Manifest, 'members'>): Promise<void> {
    const members = Object.fromEntries(this.#writer.sums);
    this.manifest = manifestText({ ...manifest, members });
    await this.#writer.add(MANIFEST, this.manifest);
    await this.#writer.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#endPump().catch(() => undefined);
    await this.#folder[Symbol.asyncDispose]();
  }

  async #endPump() {
    const pump = this.#pump;
    this.#pump = undefined;
    return pump?.end();
  }

  /** Where nothing can be filled in later: what comes first is how much it is. */
  async #addBySize(name: string, content: AsyncIterable<Uint8Array>): Promise<void> {
    const spool = join(this.#folder.path, basename(name));
    {
      await using file = await open(spool, 'wx', 0o600);
      for await (const piece of content) await file.writeFile(piece);
    }
    await this.#writer.addFile(name, spool);
    await rm(spool);
  }
}

export function partialOf(path: string): string {
  return `${path}.partial`;
}

function manifestText(manifest: Manifest): string {
  return `${JSON.stringify(manifest, null, 2)}\n`;
}

async function* pieces(content: Content): AsyncGenerator<Uint8Array> {
  if (typeof content === 'string') yield Buffer.from(content);
  else if (content instanceof Uint8Array) yield content;
  else yield* content;
}

function thereAlready(path: string, hint: string): GantryError {
  return new GantryError('USAGE', `${path} exists already`, { hint });
}

function cannotMake(path: string, error: unknown): GantryError {
  return new GantryError('USAGE', `cannot make ${path}: ${messageOf(error)}`, {
    cause: error,
    hint: 'the folder above it must exist',
  });
}
