import { GantryError } from '../errors.ts';

/** A place in the bytes of one file, from which no more is taken than is there. */
export class Cursor {
  readonly file: string;
  readonly #bytes: Buffer;
  #offset = 0;

  constructor(file: string, bytes: Buffer) {
    this.file = file;
    this.#bytes = bytes;
  }

  get offset(): number {
    return this.#offset;
  }

  get left(): number {
    return this.#bytes.length - this.#offset;
  }

  /** A view, no copy. Errors: BAD_ARCHIVE. @param what for the error */
  take(length: number, what: string): Buffer {
    const start = this.#offset;
    this.skip(length, what);
    return this.#bytes.subarray(start, start + length);
  }

  /** Errors: BAD_ARCHIVE. */
  skip(length: number, what: string): void {
    if (length > this.left) throw this.bad(`${what} has ${length} bytes, ${this.left} are left`);
    this.#offset += length;
  }

  /** Errors: BAD_ARCHIVE. */
  u32(what: string): number {
    return this.take(4, what).readUInt32LE(0);
  }

  /** What is wrong at this place. */
  bad(why: string, cause?: unknown): GantryError {
    return badImage(this.file, why, this.#offset, cause);
  }
}

/** Errors of one image all read alike: which file, where in it, why. */
export function badImage(file: string, why: string, offset?: number, cause?: unknown): GantryError {
  const place = offset === undefined ? file : `${file}, byte ${offset}`;
  return new GantryError('BAD_ARCHIVE', `${place}: ${why}`, {
    hint: 'the checkpoint is damaged or not complete: take another copy',
    ...(cause === undefined ? {} : { cause }),
  });
}
