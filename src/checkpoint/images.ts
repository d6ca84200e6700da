import { copyFile, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { makePrivateFolder } from '../durable.ts';
import { GantryError } from '../errors.ts';

/** A folder for the memory images of one operation, gone when disposed: they hold everything a process knows. */
export class ImageFolder {
  readonly path: string;
  readonly #logs: string;

  private constructor(path: string, logs: string) {
    this.path = path;
    this.#logs = logs;
  }

  static async make(node: Node, operation: string, role: 'source' | 'target'): Promise<ImageFolder> {
    const path = join(node.config.imageDir, `${operation}.${role}`);
    await makePrivateFolder(path);
    return new ImageFolder(path, join(node.config.stateDir, 'logs'));
  }

  /** Where CRIU's images go; not made yet. */
  get images(): string {
    return join(this.path, 'checkpoint');
  }

  /** Keeps a log of CRIU for the operator, under the operation's name. */
  async keepLog(file: string, name: string): Promise<void> {
    await makePrivateFolder(this.#logs);
    await copyFile(file, join(this.#logs, name)).catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}

/** Errors: NO_SPACE, when a folder's filesystem has no room for so many bytes (with a tenth to spare). */
export async function checkSpace(folder: string, bytes: number): Promise<void> {
  await makePrivateFolder(folder);
  const { bavail, bsize } = await statfs(folder);
  const free = bavail * bsize;
  if (free < bytes * 1.1) {
    const mib = (n: number) => `${Math.ceil(n / 1024 / 1024)} MiB`;
    throw new GantryError(
      'NO_SPACE',
      `${folder} has ${mib(free)} free, the checkpoint needs about ${mib(bytes * 1.1)}`,
      {
        hint: 'free space there, or set imageDir to a larger filesystem',
      },
    );
  }
}
