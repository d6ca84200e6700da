import { readFile, rm } from 'node:fs/promises';
import { LabError } from './failure.ts';
import { run } from './program.ts';

export interface Mount {
  readonly root: string;
  readonly path: string;
  readonly type: string;
  /** Options of the superblock; for a cgroup v1 hierarchy its controllers are among them. */
  readonly options: readonly string[];
}

/** Every mount this process sees, in the order of mounting (proc_pid_mountinfo(5)). */
export async function mounts(): Promise<Mount[]> {
  return parseMounts(await readFile('/proc/self/mountinfo', 'utf8'));
}

export function parseMounts(text: string): Mount[] {
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [before = '', after = ''] = line.split(' - ');
      const fields = before.split(' ');
      const [type = '', , options = ''] = after.split(' ');
      return { root: plain(fields[3]), path: plain(fields[4]), type, options: options.split(',') };
    });
}

/**
 * Deletes a folder. Whatever is mounted below it is unmounted first, and if that fails nothing is deleted: `rm` would
 * go into a bind mount, and in a lab the repository itself may be bound there.
 */
export async function removeTree(folder: string): Promise<void> {
  for (const mount of (await mountsBelow(folder)).reverse()) await run('umount', [mount.path]);
  const left = await mountsBelow(folder);
  if (left.length > 0) {
    throw new LabError(`${left[0]?.path} is still mounted: nothing below ${folder} was deleted`);
  }
  await rm(folder, { recursive: true, force: true });
}

async function mountsBelow(folder: string): Promise<Mount[]> {
  return (await mounts()).filter(({ path }) => path === folder || path.startsWith(`${folder}/`));
}

/** mountinfo writes spaces and the like as octal escapes. */
function plain(text = ''): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
