import { createHash } from 'node:crypto';
import { constants, openSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { Socket } from 'node:net';
import type { ArchiveOutput } from './output.ts';
import type { PumpResult } from './pump.ts';
import { END, headerBlock, headerBlocks, headerOfLength, padded } from './tar.ts';

/** What a manifest says of a member. */
export interface Sum {
  /** In bytes. */
  readonly size: number;
  /** Of its content, in hexadecimal. */
  readonly sha256: string;
}

const PIECE_BYTES = 1024 * 1024;
const NO_BYTES = Buffer.alloc(0);

/** Where the members of an archive go. */
export interface Members {
  folder(name: string): Promise<void>;
  add(name: string, content: Uint8Array | string): Promise<void>;
  /** A file of a known size, which is removed afterwards. */
  take(name: string, path: string): Promise<void>;
  /** The last one, which tells of all others, and the end mark. */
  finish(name: string, text: (sums: ReadonlyMap<string, Sum>) => string): Promise<void>;
}

/** Writes one tar archive into an output, and sums its members up. */
export class ArchiveWriter implements Members {
  readonly sums = new Map<string, Sum>();
  readonly #output: ArchiveOutput;
  readonly #mtime = Math.floor(Date.now() / 1000);

  constructor(output: ArchiveOutput) {
    this.#output = output;
  }

  async folder(name: string): Promise<void> {
    await this.#output.write(headerBlocks({ name: `${name}/`, type: 'folder', mode: 0o700, mtime: this.#mtime }));
  }

  async add(name: string, content: Uint8Array | string): Promise<void> {
    const bytes = typeof content === 'string' ? Buffer.from(content) : content;
    await this.#output.write(this.#header(name, bytes.length));
    const hash = createHash('sha256').update(bytes);
    await this.#output.write(bytes);
    await this.#pad(bytes.length);
    this.sums.set(name, { size: bytes.length, sha256: hash.digest('hex') });
  }

  /** A file of a known size. */
  async addFile(name: string, path: string): Promise<void> {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    const { size } = await file.stat();
    await this.#output.write(this.#header(name, size));
    const sum = await this.#content(name, readUpTo(file, size));
    if (sum.size !== size) throw new Error(`${path} has ${sum.size} bytes, and had ${size}`);
    await this.#pad(size);
  }

  async take(name: string, path: string): Promise<void> {
    await this.addFile(name, path);
    await rm(path);
  }

  /** Something of which nobody knows how much it will be: its header is written last. */
  async addStream(name: string, content: AsyncIterable<Uint8Array>): Promise<void> {
    await this.nest(name, async () => void (await this.#content(name, content)));
  }

  /** What a pump has written into the output's file. */
  async adopt(prefix: string, { files, at }: PumpResult): Promise<void> {
    for (const { name, size, sha256, at: headerAt, headerLength } of files) {
      const member = { name: `${prefix}${name}`, size, mtime: this.#mtime };
      await this.#output.writeAt(headerOfLength(member, headerLength), headerAt);
      this.sums.set(member.name, { size, sha256 });
    }
    this.#output.advance(at);
  }

  /**
   * A member that `write` writes into the same output: an archive in this one, whose own manifest has its sums.
   * @param told how much it will be, where nothing can be filled in later
   */
  async nest(name: string, write: () => Promise<void>, told?: number): Promise<void> {
    const header = told === undefined ? await this.#output.reserve(headerBlock({ name }).length) : undefined;
    if (told !== undefined) await this.#output.write(this.#header(name, told));
    const began = this.#output.bytes;
    await write();
    const size = this.#output.bytes - began;
    if (told !== undefined && size !== told) throw new Error(`${name} has ${size} bytes, and was to have ${told}`);
    await this.#pad(size);
    await header?.fill(this.#header(name, size));
  }

  async finish(name: string, text: (sums: ReadonlyMap<string, Sum>) => string): Promise<void> {
    await this.add(name, text(this.sums));
    await this.end();
  }

  /** The end mark. The output stays open. */
  async end(): Promise<void> {
    await this.#output.write(END);
  }

  async #content(name: string, content: AsyncIterable<Uint8Array>): Promise<Sum> {
    const hash = createHash('sha256');
    let size = 0;
    for await (const piece of content) {
      hash.update(piece);
      size += piece.length;
      await this.#output.write(piece);
    }
    const sum = { size, sha256: hash.digest('hex') };
    this.sums.set(name, sum);
    return sum;
  }

  #header(name: string, size: number): Buffer {
    return headerBlock({ name, size, mtime: this.#mtime });
  }

  async #pad(size: number): Promise<void> {
    const padding = padded(size) - size;
    await this.#output.write(padding === 0 ? NO_BYTES : Buffer.alloc(padding));
  }
}

async function* readUpTo(file: Awaited<ReturnType<typeof open>>, size: number): AsyncGenerator<Buffer> {
  const buffer = Buffer.allocUnsafe(Math.min(size, PIECE_BYTES));
  for (let left = size; left > 0; ) {
    const { bytesRead } = await file.read(buffer, 0, Math.min(left, buffer.length));
    if (bytesRead === 0) return;
    left -= bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** What is written into a FIFO, until its writer closes it; it waits for one. Ended by the signal, without an error. */
export async function* fifoContent(path: string, signal: AbortSignal): AsyncGenerator<Buffer> {
  // The socket owns it from here on.
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  // Not by reads of the thread pool: those that wait for a writer would take its threads away from everybody.
  const socket = new Socket({ fd, readable: true, writable: false, signal });
  try {
    for await (const piece of socket) yield piece as Buffer;
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    socket.destroy();
  }
}
