import type { FileHandle } from 'node:fs/promises';
import type { Transform } from 'node:stream';
import { constants, crc32, createGzip, createZstdCompress } from 'node:zlib';
import { Encrypter } from 'age-encryption';
import type { Compression } from './layout.ts';

/** Where bytes go. */
interface Sink {
  write(bytes: Uint8Array): Promise<void>;
  end(): Promise<void>;
}

/** Bytes of an output that are told later, when what follows them is known. */
export interface Reserved {
  fill(bytes: Buffer): Promise<void>;
}

/**
 * A file that is written from its beginning to its end, but for the places that were reserved. A compressed one is a
 * sequence of gzip members or zstd frames, which all readers take for one: a reserved place has one of its own, in which
 * the bytes stand as they are.
 */
export class ArchiveOutput {
  readonly #file: FileHandle;
  readonly #compression: Compression;
  readonly #sink: Sink;
  readonly #isSealed: boolean;
  #segment: Segment | undefined;
  #fileBytes = 0;
  #bytes = 0;

  private constructor(file: FileHandle, compression: Compression, sink: (raw: Sink) => Sink, isSealed: boolean) {
    this.#file = file;
    this.#compression = compression;
    this.#isSealed = isSealed;
    this.#sink = sink({ write: (bytes) => this.#toFile(bytes), end: () => Promise.resolve() });
  }

  /** @param recipients age recipients ("age1…"); none: in the clear. The file is the caller's to close. */
  static async open(file: FileHandle, compression: Compression, recipients: readonly string[]): Promise<ArchiveOutput> {
    if (recipients.length === 0) return new ArchiveOutput(file, compression, (raw) => raw, false);
    const encrypter = new Encrypter();
    for (const recipient of recipients) encrypter.addRecipient(recipient);
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const encrypted = await encrypter.encrypt(readable);
    return new ArchiveOutput(file, compression, (raw) => new EncryptedSink(writable.getWriter(), encrypted, raw), true);
  }

  /** Before compression and encryption. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Whether places can be reserved: what is encrypted cannot be changed any more. */
  get canReserve(): boolean {
    return !this.#isSealed;
  }

  /** Where others may write into the file itself; undefined when what they write would not be what is to be in it. */
  get raw(): { readonly fd: number; readonly at: number } | undefined {
    const isRaw = this.#compression === 'none' && !this.#isSealed;
    return isRaw ? { fd: this.#file.fd, at: this.#fileBytes } : undefined;
  }

  /** Others have written up to here. */
  advance(at: number): void {
    this.#bytes += at - this.#fileBytes;
    this.#fileBytes = at;
  }

  /** Writes over what others have left out. */
  async writeAt(bytes: Uint8Array, at: number): Promise<void> {
    await writeAll(this.#file, bytes, at);
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#bytes += bytes.length;
    if (this.#compression === 'none') {
      await this.#sink.write(bytes);
      return;
    }
    this.#segment ??= new Segment(compressor(this.#compression), this.#sink);
    await this.#segment.write(bytes);
  }

  /** A place for so many bytes, 65,535 at most. */
  async reserve(length: number): Promise<Reserved> {
    if (this.#isSealed) throw new Error('nothing can be reserved in what is encrypted');
    await this.#endSegment();
    const at = this.#fileBytes;
    await this.#sink.write(stored(this.#compression, Buffer.alloc(length)));
    this.#bytes += length;
    return {
      fill: async (bytes) => {
        if (bytes.length !== length) throw new RangeError(`${bytes.length} bytes for a place of ${length}`);
        const framed = stored(this.#compression, bytes);
        await writeAll(this.#file, framed, at);
      },
    };
  }

  async end(): Promise<void> {
    await this.#endSegment();
    await this.#sink.end();
  }

  async #endSegment(): Promise<void> {
    const segment = this.#segment;
    this.#segment = undefined;
    await segment?.end();
  }

  async #toFile(bytes: Uint8Array): Promise<void> {
    const at = this.#fileBytes;
    this.#fileBytes += bytes.length;
    await writeAll(this.#file, bytes, at);
  }
}

/** Its own position: a pipe has none. */
async function writeAll(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}

function compressor(compression: 'gzip' | 'zstd'): Transform {
  // Speed before size: the processes stand still meanwhile.
  if (compression === 'gzip') return createGzip({ level: 1 });
  return createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: 1 } });
}

/** Bytes as they are, in a frame whose length depends on theirs alone (RFC 1952 and 1951; RFC 8878). */
function stored(compression: Compression, bytes: Buffer): Buffer {
  if (compression === 'none') return bytes;
  if (compression === 'gzip') {
    const head = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1, 0, 0, 0, 0]);
    head.writeUInt16LE(bytes.length, 11);
    head.writeUInt16LE(~bytes.length & 0xffff, 13);
    const tail = Buffer.alloc(8);
    tail.writeUInt32LE(crc32(bytes), 0);
    tail.writeUInt32LE(bytes.length, 4);
    return Buffer.concat([head, bytes, tail]);
  }
  // Magic, a single segment with a content size of four bytes, one raw block that is the last.
  const head = Buffer.alloc(12);
  head.writeUInt32LE(0xfd2fb528, 0);
  head[4] = 0xa0;
  head.writeUInt32LE(bytes.length, 5);
  head.writeUIntLE((bytes.length << 3) | 1, 9, 3);
  return Buffer.concat([head, bytes]);
}

/** One run of a compressor. */
class Segment {
  readonly #stream: Transform;
  readonly #copied: Promise<void>;

  constructor(stream: Transform, sink: Sink) {
    this.#stream = stream;
    this.#copied = copy(stream, sink);
    // Told to whoever writes next, or ends.
    this.#copied.catch(() => undefined);
  }

  async write(bytes: Uint8Array): Promise<void> {
    // Until it holds on to none of it: the caller uses it again, and a copy would be collected late.
    const { promise, resolve } = Promise.withResolvers<void>();
    // An error is told by the reading end, which knows why.
    this.#stream.write(bytes, (error) => error ?? resolve());
    await Promise.race([promise, this.#copied]);
  }

  async end(): Promise<void> {
    this.#stream.end();
    await this.#copied;
  }
}

async function copy(from: AsyncIterable<Uint8Array>, sink: Sink): Promise<void> {
  for await (const bytes of from) await sink.write(bytes);
}

class EncryptedSink implements Sink {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #copied: Promise<void>;

  constructor(writer: WritableStreamDefaultWriter<Uint8Array>, encrypted: ReadableStream<Uint8Array>, raw: Sink) {
    this.#writer = writer;
    this.#copied = copy(encrypted, raw);
    this.#copied.catch(() => undefined);
  }

  async write(bytes: Uint8Array): Promise<void> {
    await Promise.race([this.#writer.write(Uint8Array.from(bytes)), this.#copied]);
  }

  async end(): Promise<void> {
    await Promise.race([this.#writer.close(), this.#copied]);
    await this.#copied;
  }
}
