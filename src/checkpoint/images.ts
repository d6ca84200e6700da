import { copyFile, lstat, readdir, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { IMAGES } from '../archive/layout.ts';
import { exists, makePrivateFolder } from '../durable.ts';
import { GantryError } from '../errors.ts';

/** A folder for the memory images of one operation, gone when disposed: they hold everything a process knows. */
export class ImageFolder {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async make(node: Node, operation: string, role: 'source' | 'target'): Promise<ImageFolder> {
    const path = join(node.config.imageDir, `${operation}.${role}`);
    await makePrivateFolder(path);
    return new ImageFolder(path);
  }

  /** Where CRIU's images go; not made yet. */
  get images(): string {
    return join(this.path, IMAGES);
  }

  /** The same for one of several containers. */
  imagesOf(container: number): string {
    return imagesBelow(this.path, container);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}

/** What the files of a folder, and of those below it, take: holes do not count. */
export async function allocatedBytes(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  const blocks = await Promise.all(
    files.map(async ({ parentPath, name }) => (await lstat(join(parentPath, name))).blocks),
  );
  return blocks.reduce((total, each) => total + each, 0) * 512;
}

/** Where a migration has its images on the source. */
export function folderOfImages(node: Node, operation: string): string {
  return join(node.config.imageDir, `${operation}.source`);
}

/** The same of one of its containers. */
export function imagesOf(node: Node, operation: string, container: number): string {
  return imagesBelow(folderOfImages(node, operation), container);
}

function imagesBelow(folder: string, container: number): string {
  return join(folder, String(container), IMAGES);
}

/** Keeps a log of CRIU for the operator, under the operation's name; what it lay beside is removed after a failure. */
export async function keepLog(node: Node, file: string, name: string): Promise<void> {
  const logs = join(node.config.stateDir, 'logs');
  await makePrivateFolder(logs);
  await copyFile(file, join(logs, name)).catch(() => undefined);
}

/** Errors: NO_SPACE, when a folder's filesystem has no room for so many bytes (with a tenth to spare). */
export async function checkSpace(folder: string, bytes: number): Promise<void> {
  // One that is there is somebody's, with rights of its own.
  if (!(await exists(folder))) await makePrivateFolder(folder);
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
