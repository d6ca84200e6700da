import { createHash } from 'node:crypto';
import { type FileHandle, link, mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { ancestorsOf, sumOfManifest } from '../archive/chain.ts';
import {
  type Compression,
  DUMP_LOG,
  IMAGES,
  MANIFEST,
  type Manifest,
  parseManifest,
  STATISTICS,
} from '../archive/layout.ts';
import { type Annotations, writeLayout } from '../archive/oci.ts';
import { ArchiveOutput } from '../archive/output.ts';
import type { PlannedArchive } from '../archive/planned.ts';
import { Pump } from '../archive/pump.ts';
import { ArchiveWriter, type Sum } from '../archive/writer.ts';
import { exists, makePrivateFolder, syncFolder } from '../durable.ts';
import { errnoOf, GantryError, messageOf } from '../errors.ts';
import type { OutputEntry } from '../migrate/journal.ts';
import { run } from '../runtime/program.ts';
import { ImageFolder } from './images.ts';

/** What is done to an archive on its way. */
export interface Packing {
  readonly compression: Compression;
  /** Of age; none: it is not encrypted. */
  readonly recipients: readonly string[];
}

export type Content = Uint8Array | string | AsyncIterable<Uint8Array>;

/** Where the state of one container goes. */
export interface Destination extends AsyncDisposable {
  /** Folder for CRIU's images. */
  readonly images: string;
  /** Folder for CRIU's log and statistics. */
  readonly work: string;
  /** Before the dump. @param processes how many will be dumped */
  expect(processes: number): Promise<void>;
  /** After the dump. @param isWhole false: it has failed. Errors: those of writing what came of it */
  dumped(isWhole: boolean): Promise<void>;
  add(name: string, content: Content): Promise<void>;
  /** What CRIU has written into {@link work}, if it has. */
  take(name: string): Promise<void>;
  /** After everything was added. */
  finish(manifest: Omit<Manifest, 'members'>): Promise<void>;
}

/** A folder: the images stay where CRIU has written them. Nothing in it is summed up but what is small. */
export class FolderDestination implements Destination {
  readonly work: string;
  readonly #unfinished: Unfinished;
  readonly #sums = new Map<string, Sum>();
  #manifest = '';

  private constructor(folder: string, unfinished: Unfinished) {
    this.work = folder;
    this.#unfinished = unfinished;
  }

  static async open(node: Node, operation: string, folder: string): Promise<FolderDestination> {
    const unfinished = await Unfinished.folder(node, operation, folder);
    const made = new FolderDestination(folder, unfinished);
    await mkdir(made.images, { mode: 0o700 });
    return made;
  }

  get images(): string {
    return join(this.work, IMAGES);
  }

  expect(): Promise<void> {
    return Promise.resolve();
  }

  dumped(): Promise<void> {
    return Promise.resolve();
  }

  async add(name: string, content: Content): Promise<void> {
    const hash = createHash('sha256');
    let size = 0;
    await makePrivateFolder(dirname(join(this.work, name)));
    await using file = await open(join(this.work, name), 'wx', 0o600);
    for await (const piece of pieces(content)) {
      hash.update(piece);
      size += piece.length;
      await file.writeFile(piece);
    }
    await file.sync();
    this.#sums.set(name, { size, sha256: hash.digest('hex') });
  }

  /** It is there already. */
  take(): Promise<void> {
    return Promise.resolve();
  }

  finish(manifest: Omit<Manifest, 'members'>): Promise<void> {
    this.#manifest = manifestText({ ...manifest, members: Object.fromEntries(this.#sums) });
    return Promise.resolve();
  }

  /** Of the manifest's text; once it is finished. */
  get sha256(): string {
    return sumOfManifest(this.#manifest);
  }

  /**
   * Makes it a checkpoint: the manifest comes when everything else is on the disk. Errors: BAD_ARCHIVE, when CRIU has not
   * linked the parent that the manifest says, or that is another one by now.
   */
  async seal(): Promise<void> {
    await run('sync', ['-f', this.work], { timeoutMs: 600_000 });
    await ancestorsOf(this.work, parseManifest(this.#manifest, this.work));
    await this.add(MANIFEST, this.#manifest);
    await syncFolder(this.work);
    await this.#unfinished.done();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#unfinished[Symbol.asyncDispose]();
  }
}

/** Where an archive goes, until it is disposed. */
export interface NewArchive extends AsyncDisposable {
  readonly output: ArchiveOutput;
  /** Makes it a checkpoint. @param told what an image says of itself */
  finish(told: Annotations): Promise<void>;
}

/** A file, under another name until it is whole. */
export class ArchiveFile implements NewArchive {
  readonly output: ArchiveOutput;
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #unfinished: Unfinished;

  private constructor(path: string, file: FileHandle, output: ArchiveOutput, unfinished: Unfinished) {
    this.#path = path;
    this.#file = file;
    this.output = output;
    this.#unfinished = unfinished;
  }

  static async open(
    node: Node,
    operation: string,
    path: string,
    { compression, recipients }: Packing,
  ): Promise<ArchiveFile> {
    if (await exists(path)) throw thereAlready(path);
    const unfinished = await Unfinished.file(node, operation, `${path}.partial`);
    let file: FileHandle | undefined;
    try {
      file = await open(unfinished.path, 'r+');
      return new ArchiveFile(path, file, await ArchiveOutput.open(file, compression, recipients), unfinished);
    } catch (error) {
      await file?.close();
      await unfinished[Symbol.asyncDispose]();
      throw new GantryError('USAGE', `cannot encrypt ${path}: ${messageOf(error)}`, { cause: error });
    }
  }

  async finish(): Promise<void> {
    await this.output.end();
    await this.#file.sync();
    // Not by renaming, which would replace what somebody else has put there meanwhile.
    await link(this.#unfinished.path, this.#path).catch((error: unknown) => {
      if (errnoOf(error) === 'EEXIST') throw thereAlready(this.#path);
      throw error;
    });
    await rm(this.#unfinished.path);
    await syncFolder(dirname(this.#path));
    await this.#unfinished.done();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
    await this.#unfinished[Symbol.asyncDispose]();
  }
}

/** A folder with an OCI image layout, in which the archive is the one layer of the one image. */
export class ArchiveImage implements NewArchive {
  readonly output: ArchiveOutput;
  readonly #compression: Compression;
  readonly #file: FileHandle;
  readonly #layer: string;
  readonly #unfinished: Unfinished;

  private constructor(
    compression: Compression,
    layer: string,
    file: FileHandle,
    output: ArchiveOutput,
    unfinished: Unfinished,
  ) {
    this.#compression = compression;
    this.#layer = layer;
    this.#file = file;
    this.output = output;
    this.#unfinished = unfinished;
  }

  static async open(node: Node, operation: string, folder: string, compression: Compression): Promise<ArchiveImage> {
    const unfinished = await Unfinished.folder(node, operation, folder);
    try {
      const layer = join(folder, 'layer');
      const file = await open(layer, 'wx', 0o600);
      return new ArchiveImage(compression, layer, file, await ArchiveOutput.open(file, compression, []), unfinished);
    } catch (error) {
      await unfinished[Symbol.asyncDispose]();
      throw error;
    }
  }

  async finish(told: Annotations): Promise<void> {
    await this.output.end();
    await this.#file.sync();
    await writeLayout(this.#unfinished.path, { path: this.#layer, compression: this.#compression }, told);
    await this.#unfinished.done();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
    await this.#unfinished[Symbol.asyncDispose]();
  }
}

/**
 * A file or folder that is being written. The journal knows of it before it is there, so that nothing of it is left when the
 * agent dies; disposing it removes it, unless it is done.
 */
class Unfinished implements AsyncDisposable {
  readonly path: string;
  readonly #done: () => Promise<void>;
  #isDone = false;

  private constructor(path: string, done: () => Promise<void>) {
    this.path = path;
    this.#done = done;
  }

  static folder(node: Node, operation: string, path: string): Promise<Unfinished> {
    return Unfinished.#make(node, operation, path, () => mkdir(path, { mode: 0o700 }));
  }

  static file(node: Node, operation: string, path: string): Promise<Unfinished> {
    return Unfinished.#make(node, operation, path, async () => (await open(path, 'wx', 0o600)).close());
  }

  /** @param make fails when there is something already: that is not ours to remove */
  static async #make(node: Node, operation: string, path: string, make: () => Promise<void>): Promise<Unfinished> {
    if (await exists(path)) throw thereAlready(path);
    const entry: OutputEntry = { role: 'output', state: 'writing', operation, peer: '', path };
    await node.journal.write(entry);
    try {
      await make();
    } catch (error) {
      await node.journal.remove(entry);
      if (errnoOf(error) === 'EEXIST') throw thereAlready(path);
      throw new GantryError('USAGE', `cannot make ${path}: ${messageOf(error)}`, {
        cause: error,
        hint: 'the folder above it must exist',
      });
    }
    return new Unfinished(path, () => node.journal.remove(entry));
  }

  /** It is whole, and on the disk. */
  async done(): Promise<void> {
    this.#isDone = true;
    await this.#done();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isDone) return;
    await rm(this.path, { recursive: true, force: true });
    await this.done();
  }
}

/** Two images of each process, and some for memory that several share; what comes beyond is written to the folder. */
const SPARE_PIPES = 16;

/**
 * A container's archive, written while CRIU dumps: the pages go from CRIU through FIFOs into the file, once. The other
 * images are small, and are put into it from a folder in memory. It is alone in its file, or one member of a pod's.
 */
export class ArchiveDestination implements Destination {
  /** Text of the manifest, once it is finished. */
  manifest = '';
  readonly #folder: ImageFolder;
  readonly #output: ArchiveOutput;
  readonly #writer: ArchiveWriter | PlannedArchive;
  readonly #fifos: string[] = [];
  #pump: Pump | undefined;

  private constructor(folder: ImageFolder, output: ArchiveOutput, writer: ArchiveWriter | PlannedArchive) {
    this.#folder = folder;
    this.#output = output;
    this.#writer = writer;
  }

  /** @param writer one that only plans does not write before it is told to, and needs this until it has */
  static async open(
    node: Node,
    operation: string,
    output: ArchiveOutput,
    writer: ArchiveWriter | PlannedArchive = new ArchiveWriter(output),
  ): Promise<ArchiveDestination> {
    const folder = await ImageFolder.make(node, operation, 'source');
    await mkdir(folder.images, { mode: 0o700 });
    return new ArchiveDestination(folder, output, writer);
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

  /** Takes images that were dumped before, and what CRIU has written beside them, instead of a dump. They stay there. */
  async given(folder: string): Promise<void> {
    await this.#writer.folder(IMAGES);
    for (const name of await readdir(folder)) await link(join(folder, name), join(this.images, name));
    for (const name of [STATISTICS, DUMP_LOG]) {
      const beside = join(dirname(folder), name);
      if (await exists(beside)) await link(beside, join(this.work, name));
    }
    await this.dumped(true);
  }

  async dumped(isWhole: boolean): Promise<void> {
    const result = await this.#endPump();
    if (!isWhole) return;
    if (result !== undefined && this.#writer instanceof ArchiveWriter) await this.#writer.adopt(`${IMAGES}/`, result);
    for (const name of (await readdir(this.images)).sort()) {
      const path = join(this.images, name);
      if ((await stat(path)).isFile()) await this.#writer.take(`${IMAGES}/${name}`, path);
      else await rm(path);
    }
  }

  async add(name: string, content: Content): Promise<void> {
    if (typeof content === 'string' || content instanceof Uint8Array) await this.#writer.add(name, content);
    else if (this.#output.canReserve && this.#writer instanceof ArchiveWriter)
      await this.#writer.addStream(name, content);
    else await this.#addBySize(name, content);
  }

  async take(name: string): Promise<void> {
    const file = join(this.work, name);
    if (await exists(file)) await this.#writer.take(name, file);
  }

  finish(manifest: Omit<Manifest, 'members'>): Promise<void> {
    return this.#writer.finish(MANIFEST, (sums) => {
      this.manifest = manifestText({ ...manifest, members: Object.fromEntries(sums) });
      return this.manifest;
    });
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
    const spool = join(this.#folder.path, `member-${basename(name)}`);
    {
      await using file = await open(spool, 'wx', 0o600);
      for await (const piece of content) await file.writeFile(piece);
    }
    await this.#writer.take(name, spool);
  }
}

function manifestText(manifest: Manifest): string {
  return `${JSON.stringify(manifest, null, 2)}\n`;
}

async function* pieces(content: Content): AsyncGenerator<Uint8Array> {
  if (typeof content === 'string') yield Buffer.from(content);
  else if (content instanceof Uint8Array) yield content;
  else yield* content;
}

function thereAlready(path: string): GantryError {
  return new GantryError('USAGE', `${path} exists already`, { hint: 'name something that does not exist yet' });
}
