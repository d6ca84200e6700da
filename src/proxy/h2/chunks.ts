const CHUNK_BYTES = 64 * 1024;
const SPARE_CHUNKS = 32;

interface Chunk {
  readonly buffer: Buffer;
  readonly pool: ChunkPool;
  holds: number;
}

const chunks = new WeakMap<ArrayBufferLike, Chunk>();

/**
 * The memory that a socket reads into, used again and again. A fresh buffer per read would cost more than all the rest of
 * relaying a large answer: V8 collects all its garbage for every few MiB of them, and holds a hundred MiB meanwhile.
 *
 * Whoever keeps a view beyond the call in which it came says so with `hold`, and `drop` when it is done; a chunk that is
 * held is not read into. Both do nothing for memory that belongs to no pool.
 */
export class ChunkPool {
  readonly #chunkBytes: number;
  readonly #spare: Chunk[] = [];
  #current: Chunk | undefined;

  constructor(chunkBytes = CHUNK_BYTES) {
    this.#chunkBytes = chunkBytes;
  }

  /** The buffer for the next read. */
  next(): Buffer {
    if (this.#current === undefined || this.#current.holds > 0) this.#current = this.#spare.pop() ?? this.#make();
    return this.#current.buffer;
  }

  /** A buffer that is held already. */
  take(): Buffer {
    const chunk = this.#spare.pop() ?? this.#make();
    chunk.holds = 1;
    return chunk.buffer;
  }

  /** @internal */
  free(chunk: Chunk): void {
    if (chunk !== this.#current && this.#spare.length < SPARE_CHUNKS) this.#spare.push(chunk);
  }

  #make(): Chunk {
    const chunk: Chunk = { buffer: Buffer.allocUnsafeSlow(this.#chunkBytes), pool: this, holds: 0 };
    chunks.set(chunk.buffer.buffer, chunk);
    return chunk;
  }
}

export function hold(view: Uint8Array): void {
  const chunk = chunks.get(view.buffer);
  if (chunk !== undefined) chunk.holds += 1;
}

export function drop(view: Uint8Array): void {
  const chunk = chunks.get(view.buffer);
  if (chunk === undefined) return;
  chunk.holds -= 1;
  if (chunk.holds === 0) chunk.pool.free(chunk);
}
