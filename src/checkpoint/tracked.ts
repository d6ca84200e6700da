import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { exists, makePrivateFolder, removeDurably, writeDurably } from '../durable.ts';
import { RUNC_ROOT } from '../runtime/containerd.ts';

/*
 * The kernel has one mark for each page: "written since the marks were last reset". So a container's memory can only be
 * told from the last checkpoint that reset them, whichever that was; from an earlier one, what was written before the reset
 * would be missing, and nobody would see it. A file for each container, in the agent's runDir, has the SHA-256 of that
 * checkpoint's manifest: a reboot ends both.
 */

/** undefined: nothing is known that the marks would count from. */
export async function trackedSince({ config }: Node, container: string): Promise<string | undefined> {
  return readFile(join(folderOf(config.runDir), container), 'utf8').catch(() => undefined);
}

/** Before the marks are reset. */
export async function forgetTracked({ config }: Node, container: string): Promise<void> {
  const file = join(folderOf(config.runDir), container);
  if (await exists(file)) await removeDurably(file);
}

/** When the checkpoint that has reset them is on the disk; the files of containers that are no more go. */
export async function rememberTracked({ config }: Node, container: string, sha256: string): Promise<void> {
  const folder = folderOf(config.runDir);
  await makePrivateFolder(folder);
  for (const id of await readdir(folder))
    if (!(await exists(join(RUNC_ROOT, id)))) await removeDurably(join(folder, id));
  await writeDurably(join(folder, container), sha256);
}

function folderOf(runDir: string): string {
  return join(runDir, 'tracked');
}
