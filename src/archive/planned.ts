import { lstat } from 'node:fs/promises';
import { BLOCK, END, padded } from './tar.ts';
import type { ArchiveWriter, Members, Sum } from './writer.ts';

/** As long as any other: what is said of a member has a known length before it is read. */
const NO_SUM = '0'.repeat(64);

/**
 * An archive that is written when all of it is there, and whose size is known before: one in another one that is encrypted,
 * where nothing can be filled in later. Files stay where they are until then.
 */
export class PlannedArchive implements Members {
  readonly #steps: ((writer: ArchiveWriter) => Promise<void>)[] = [];
  readonly #sums = new Map<string, Sum>();
  #size = END.length;

  /** In bytes, end mark included. */
  get size(): number {
    return this.#size;
  }

  folder(name: string): Promise<void> {
    this.#size += BLOCK;
    this.#steps.push((writer) => writer.folder(name));
    return Promise.resolve();
  }

  add(name: string, content: Uint8Array | string): Promise<void> {
    this.#plan(name, Buffer.byteLength(content), (writer) => writer.add(name, content));
    return Promise.resolve();
  }

  async take(name: string, path: string): Promise<void> {
    const { size } = await lstat(path);
    this.#plan(name, size, (writer) => writer.take(name, path));
  }

  finish(name: string, text: (sums: ReadonlyMap<string, Sum>) => string): Promise<void> {
    const length = Buffer.byteLength(text(this.#sums));
    this.#plan(name, length, (writer) => writer.finish(name, text));
    return Promise.resolve();
  }

  /** Into an archive that is empty so far; once. */
  async writeTo(writer: ArchiveWriter): Promise<void> {
    for (const step of this.#steps.splice(0)) await step(writer);
  }

  #plan(name: string, size: number, step: (writer: ArchiveWriter) => Promise<void>): void {
    this.#sums.set(name, { size, sha256: NO_SUM });
    this.#size += BLOCK + padded(size);
    this.#steps.push(step);
  }
}
