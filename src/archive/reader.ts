import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline, Readable, type Transform } from 'node:stream';
import type { ReadableStream as WebReadableStream } from 'node:stream/web';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { Decrypter } from 'age-encryption';
import { errnoOf, GantryError, messageOf } from '../errors.ts';
import { bad, IMAGES, isKnown, MANIFEST, VOLUMES } from './layout.ts';
import { containerOf, POD_OPTIONS } from './pod.ts';
import { seekable } from './seekable.ts';
import { PAGE, type TarMember, TarReader } from './tar.ts';
import type { Sum } from './writer.ts';

const MAX_MEMBERS = 100_000;
const MAX_MANIFEST_BYTES = 64 * 1024 * 1024;
const PIECE_BYTES = 1024 * 1024;
const LEAST_LEFT_BYTES = 1024 * 1024;
const PAGES = /^checkpoint\/pages-[0-9]{1,10}\.img$/;
const NO_BYTES = Buffer.alloc(0);
const GZIP_MAGIC = 0x1f8b;
const ZSTD_MAGIC = 0xfd2fb528;
const AGE = 'age-encryption.org/v1\n';

export interface ReadOptions {
  /** age identities ("AGE-SECRET-KEY-…"), for an encrypted archive. */
  readonly identities?: readonly string[];
  /** What may be unpacked in all, in bytes: an archive of a few can hold more than any disk. */
  readonly limit?: number;
  readonly signal?: AbortSignal | undefined;
  /** Leaves pages where they are, if they lie there as CRIU can read them. They are not summed up. */
  readonly leavesPages?: boolean;
}

/** Content of a member, in the archive's file. */
export interface Place {
  /** In bytes, a multiple of a page. */
  readonly at: number;
  readonly size: number;
}

export interface Unpacked {
  /** Of a pod's archive: what is in those of its containers, each in a folder of its name. */
  readonly containers: ReadonlyMap<string, Unpacked>;
  readonly sums: ReadonlyMap<string, Sum>;
  /** Text of the manifest, if there is one. */
  readonly manifest: string | undefined;
  /** What was left where it is. */
  readonly left: ReadonlyMap<string, Place>;
  /** Members of no meaning here. */
  readonly ignored: readonly string[];
}

/**
 * Reads an archive whose author is nobody's friend: regular files of known names, each once, go into a folder that
 * nobody else may enter; whatever else is in it is refused. Nothing is checked against the manifest yet.
 *
 * @param into an empty folder; undefined: only read
 */
export async function readArchive(
  path: string,
  into: string | undefined,
  options: ReadOptions = {},
): Promise<Unpacked> {
  const reading = new Reading(path, options);
  if (options.leavesPages === true) {
    await using file = await openPlain(path);
    if (file !== undefined) {
      const { size } = await file.stat();
      return await reading.read({ tar: new TarReader(seekable(file, size), path), where: path, start: 0 }, into, true);
    }
  }
  return reading.read({ tar: new TarReader(contentOf(path, options), path), where: path }, into, true);
}

/** Unless it is compressed or encrypted, or no regular file. */
async function openPlain(path: string): Promise<FileHandle | undefined> {
  const file = await open(path, 'r').catch(() => undefined);
  const head = Buffer.alloc(AGE.length);
  const isPlain =
    (await file?.stat())?.isFile() === true &&
    (await file?.read(head, 0, head.length, 0))?.bytesRead === head.length &&
    head.toString('latin1') !== AGE &&
    unpackerOf(head) === undefined;
  if (isPlain) return file;
  await file?.close();
  return undefined;
}

/** An archive, or one in another. */
interface Source {
  readonly tar: TarReader;
  /** What it is called in errors. */
  readonly where: string;
  /** Where it begins in the file, in bytes, where that can be said. */
  readonly start?: number;
}

class Reading {
  readonly #options: ReadOptions;
  readonly #path: string;
  #bytes = 0;
  #members = 0;

  constructor(path: string, options: ReadOptions) {
    this.#path = path;
    this.#options = options;
  }

  async read({ tar, where, start }: Source, into: string | undefined, mayBePod: boolean): Promise<Unpacked> {
    const left = new Map<string, Place>();
    const sums = new Map<string, Sum>();
    const containers = new Map<string, Unpacked>();
    const ignored: string[] = [];
    let manifest: string | undefined;
    if (into !== undefined) for (const folder of [IMAGES, VOLUMES]) await mkdir(join(into, folder), { mode: 0o700 });
    for (let member = await tar.next(); member !== undefined; member = await tar.next()) {
      this.#options.signal?.throwIfAborted();
      if (++this.#members > MAX_MEMBERS) throw bad(this.#path, `it has more than ${MAX_MEMBERS} members`);
      const name = nameOf(where, member);
      if (member.type === 'folder') continue;
      if (member.type !== 'file') throw bad(where, `${JSON.stringify(name)} is a ${member.type}`);
      if (sums.has(name) || left.has(name)) throw bad(where, `${name} is in it twice`);
      const container = mayBePod && sums.has(POD_OPTIONS) ? containerOf(name) : undefined;
      if (container !== undefined) {
        if (containers.has(container)) throw bad(where, `${name} is in it twice`);
        const folder = into === undefined ? undefined : join(into, container);
        if (folder !== undefined) await mkdir(folder, { mode: 0o700 });
        const inner: Source = {
          tar: new TarReader(tar.inner(), `${where}: ${name}`),
          where: `${where}: ${name}`,
          ...(start !== undefined && { start: start + tar.position }),
        };
        containers.set(container, await this.read(inner, folder, false));
        continue;
      }
      if (!isKnown(name)) {
        ignored.push(name);
        continue;
      }
      const place = { at: (start ?? Number.NaN) + tar.position, size: member.size };
      if (mayStay(name, place)) {
        left.set(name, place);
        continue;
      }
      this.#count(member.size);
      if (name === MANIFEST) {
        const bytes = await tar.whole(MAX_MANIFEST_BYTES);
        manifest = bytes.toString();
        sums.set(name, { size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') });
        if (into !== undefined) await keep(join(into, name), [bytes]);
      } else {
        sums.set(name, await keep(into === undefined ? undefined : join(into, name), this.#heeding(tar.content())));
      }
    }
    return { sums, manifest, ignored, containers, left };
  }

  /** A member may be as large as a process. */
  async *#heeding(content: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const piece of content) {
      this.#options.signal?.throwIfAborted();
      yield piece;
    }
  }

  #count(size: number): void {
    const { limit = Number.MAX_SAFE_INTEGER } = this.#options;
    this.#bytes += size;
    if (this.#bytes > limit) {
      throw new GantryError('NO_SPACE', `${this.#path} unpacks to more than ${Math.floor(limit / 1024 / 1024)} MiB`, {
        hint: 'free space, or set imageDir to a larger filesystem',
      });
    }
  }
}

/** Pages whose place is known, and begins at a page. Few are not worth it. */
function mayStay(name: string, { at, size }: Place): boolean {
  return size >= LEAST_LEFT_BYTES && at % PAGE === 0 && size % PAGE === 0 && PAGES.test(name);
}

/** Errors: BAD_ARCHIVE, for one that leads elsewhere. */
function nameOf(path: string, { name }: TarMember): string {
  const plain = name.replace(/^(\.\/)+/, '').replace(/\/$/, '');
  const parts = plain.split('/');
  if (name.startsWith('/') || name.includes('\0') || parts.includes('..') || (plain !== '' && parts.includes(''))) {
    throw bad(path, `${JSON.stringify(name)} is a path that leads out of it`);
  }
  return plain;
}

async function keep(file: string | undefined, content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<Sum> {
  const hash = createHash('sha256');
  let size = 0;
  await using handle = file === undefined ? undefined : await open(file, 'wx', 0o600);
  for await (const piece of content) {
    hash.update(piece);
    size += piece.length;
    await handle?.writeFile(piece);
  }
  return { size, sha256: hash.digest('hex') };
}

/** The archive without encryption and compression, as what it begins with says. Errors: NOT_FOUND, BAD_ARCHIVE, USAGE without its key. */
export async function* contentOf(path: string, options: ReadOptions = {}): AsyncGenerator<Uint8Array> {
  const file = createReadStream(path, { highWaterMark: PIECE_BYTES });
  const streams: Readable[] = [file];
  try {
    let [head, stream] = await peeked(file);
    if (head.toString('latin1', 0, AGE.length) === AGE) {
      stream = await decrypted(path, stream, options.identities ?? []);
      [head, stream] = await peeked(stream);
    }
    streams.push(stream);
    const unpacker = unpackerOf(head)?.();
    if (unpacker !== undefined) {
      streams.push(unpacker);
      // It destroys the one with the error of the other.
      pipeline(stream, unpacker, () => undefined);
    }
    yield* unpacker ?? stream;
  } catch (error) {
    if (error instanceof GantryError) throw error;
    if (errnoOf(error) === 'ENOENT') throw new GantryError('NOT_FOUND', `there is no file ${path}`, { cause: error });
    if (errnoOf(error) === 'EISDIR') throw new GantryError('USAGE', `${path} is a folder`, { cause: error });
    if (typeof errnoOf(error) === 'string' && /^(Z_|ZSTD_|ERR_)/.test(errnoOf(error) ?? '')) {
      throw bad(path, messageOf(error));
    }
    throw error;
  } finally {
    for (const stream of streams) stream.destroy();
  }
}

function unpackerOf(head: Buffer): (() => Transform) | undefined {
  if (head.length >= 4 && head.readUInt32LE(0) === ZSTD_MAGIC) return createZstdDecompress;
  return head.length >= 2 && head.readUInt16BE(0) === GZIP_MAGIC ? createGunzip : undefined;
}

/** How a stream begins, and the stream with that. */
async function peeked(stream: Readable): Promise<[head: Buffer, stream: Readable]> {
  const iterator = stream[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
  const first = await iterator.next();
  if (first.done === true) return [NO_BYTES, Readable.from([])];
  const piece = Buffer.from(first.value);
  async function* whole() {
    yield piece;
    for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) yield next.value;
  }
  return [piece, Readable.from(whole(), { objectMode: false })];
}

async function decrypted(path: string, stream: Readable, identities: readonly string[]): Promise<Readable> {
  const decrypter = new Decrypter();
  try {
    for (const identity of identities) decrypter.addIdentity(identity);
    const clear = await decrypter.decrypt(Readable.toWeb(stream) as ReadableStream<Uint8Array>);
    return Readable.fromWeb(clear as WebReadableStream);
  } catch (error) {
    throw new GantryError('USAGE', `${path} is encrypted, and cannot be opened: ${messageOf(error)}`, {
      cause: error,
      hint: 'give the key of one of its recipients: --identity FILE',
    });
  }
}
