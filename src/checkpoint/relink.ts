import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeImage } from '../criu/image.ts';
import { GantryError } from '../errors.ts';
import { run } from '../runtime/program.ts';
import { innermostPid } from './restore-container.ts';

/**
 * With `link-remap` CRIU gives a file that is open by a name which it has lost another name beside it, and takes that away
 * at the end of a dump after which the container goes on. A restore looks for it, so it is there again until the
 * container's files are saved: until the result is disposed.
 *
 * @param images folder of CRIU's images
 * @param pids of the frozen container's processes
 * Errors: CHECKPOINT_FAILED, for a file that nobody has open any more by a descriptor.
 */
export async function relink(images: string, pids: readonly number[]): Promise<AsyncDisposable> {
  const read = (name: string) => readFile(join(images, name));
  const made: string[] = [];
  const disposable = {
    [Symbol.asyncDispose]: async () => void (await Promise.all(made.map((path) => rm(path, { force: true })))),
  };
  const names = await readdir(images);
  if (!names.includes('remap-fpath.img')) return disposable;
  const { entries } = decodeImage('remap-fpath.img', await read('remap-fpath.img'), 'REMAP_FPATH');
  const remaps = entries.filter((entry) => entry.remap_type === 'LINKED');
  if (remaps.length === 0) return disposable;
  const files = decodeImage('files.img', await read('files.img'), 'FILES').entries;
  const paths = new Map(files.flatMap(({ id, reg }) => (reg === undefined ? [] : [[id, reg.name] as const])));
  const descriptors = await descriptorsIn(images, names, pids);
  try {
    for (const { orig_id: lost, remap_id: given } of remaps) {
      const [source, path] = [descriptors.get(lost), paths.get(given)];
      if (source === undefined || path === undefined) {
        throw new GantryError(
          'CHECKPOINT_FAILED',
          `${paths.get(lost) ?? 'a file'} has lost its name, and is not open`,
          {
            hint: 'a file that is only mapped cannot be given another name',
          },
        );
      }
      // Of the kernel's making, without symbolic links, and nobody in there runs.
      const target = `/proc/${source.pid}/root${path}`;
      await run('ln', ['-L', `/proc/${source.pid}/fd/${source.fd}`, target]);
      made.push(target);
    }
    return disposable;
  } catch (error) {
    await disposable[Symbol.asyncDispose]();
    throw error;
  }
}

/** By CRIU's number of an open file: where it is open, with the PID that this node has for the process. */
async function descriptorsIn(images: string, names: readonly string[], pids: readonly number[]) {
  const real = new Map(await Promise.all(pids.map(async (pid) => [await innermostPid(pid), pid] as const)));
  const found = new Map<number, { readonly pid: number; readonly fd: number }>();
  for (const name of names) {
    const pid = real.get(Number(/^ids-(\d+)\.img$/.exec(name)?.[1]));
    if (pid === undefined) continue;
    for (const ids of decodeImage(name, await readFile(join(images, name)), 'IDS').entries) {
      const table = `fdinfo-${ids.files_id}.img`;
      if (!names.includes(table)) continue;
      const { entries } = decodeImage(table, await readFile(join(images, table)), 'FDINFO');
      for (const { id, fd } of entries) found.set(id, { pid, fd });
    }
  }
  return found;
}
