import { mkdir, readdir, rm } from 'node:fs/promises';
import { basename, isAbsolute, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { VOLUMES, type Volume } from '../archive/layout.ts';
import { exists, makePrivateFolder } from '../durable.ts';
import type { ContainerConfig } from '../gen/cri.ts';
import type { RuntimeSpec } from '../runtime/cri.ts';
import type { Destination } from './destination.ts';
import { packFolder } from './layer.ts';

/** Where kubelet has its pods' emptyDirs, wherever its own folder is. */
const EMPTY_DIR = /\/pods\/[a-zA-Z0-9-]+\/volumes\/kubernetes\.io~empty-dir\/([a-z0-9]([a-z0-9.-]*[a-z0-9])?)$/;

/**
 * What a container mounts. The content of an emptyDir is the pod's own, and goes with it; that of any other volume is
 * somebody else's, who has to give it again.
 */
export function volumesOf({ mounts }: ContainerConfig): Volume[] {
  return mounts.map(({ containerPath, hostPath }) => ({
    path: containerPath,
    hostPath,
    name: EMPTY_DIR.exec(hostPath)?.[1] ?? emptyDirOfOurs(hostPath),
  }));
}

/** The emptyDirs of a pod's containers: name to folder on the node. */
export function emptyDirsOf(configs: readonly ContainerConfig[]): Map<string, string> {
  const volumes = configs.flatMap(volumesOf).filter(({ name }) => name !== '');
  return new Map(volumes.map(({ name, hostPath }) => [name, hostPath]));
}

/** A pod that was made from a checkpoint has its emptyDirs here. */
function emptyDirOfOurs(hostPath: string): string {
  return new RegExp(`/${FOLDER}/[a-f0-9-]+/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`).test(hostPath) ? basename(hostPath) : '';
}

/** The node's folder that a container has as /dev/shm: its pod's. */
export async function shmFolder({ mounts }: RuntimeSpec): Promise<string | undefined> {
  const folder = mounts?.find(({ destination }) => destination === '/dev/shm')?.source ?? '';
  return isAbsolute(folder) && (await exists(folder)) ? folder : undefined;
}

/** Saves what is in the emptyDirs of a container. @param saved names of those that another container of the pod has saved */
export async function addVolumes(
  config: ContainerConfig,
  destination: Destination,
  saved: Set<string>,
  signal: AbortSignal,
): Promise<void> {
  for (const { name, hostPath } of volumesOf(config)) {
    if (name === '' || saved.has(name)) continue;
    saved.add(name);
    await destination.add(`${VOLUMES}/${name}.tar`, packFolder(hostPath, signal));
  }
}

/** Below the agent's state: a folder for each sandbox (by its UID) that has emptyDirs which no kubelet looks after. */
const FOLDER = 'restored-volumes';

/** A configuration whose emptyDirs are a new sandbox's own. */
export async function withOwnVolumes(
  node: Node,
  config: ContainerConfig,
  sandboxUid: string,
): Promise<ContainerConfig> {
  const names = new Map(volumesOf(config).map(({ path, name }) => [path, name]));
  const folder = join(node.config.stateDir, FOLDER, sandboxUid);
  const mounts = [];
  for (const mount of config.mounts) {
    const name = names.get(mount.containerPath) ?? '';
    const hostPath = name === '' ? mount.hostPath : join(folder, name);
    if (name !== '') {
      await makePrivateFolder(folder);
      // As kubelet makes them: whoever the container runs as may write there.
      if (!(await exists(hostPath))) await mkdir(hostPath, { mode: 0o777 });
    }
    mounts.push({ ...mount, hostPath });
  }
  return { ...config, mounts };
}

/** Removes the emptyDirs of sandboxes that are no more. */
export async function removeOrphanedVolumes(node: Node): Promise<void> {
  const folder = join(node.config.stateDir, FOLDER);
  if (!(await exists(folder))) return;
  // First the folders: a sandbox that is made meanwhile has one that was not read.
  const names = await readdir(folder);
  const restoring = [
    ...node.journal.pending('restore').map(({ sandboxUid }) => sandboxUid),
    ...node.journal
      .pending('target')
      .filter(({ state }) => state === 'preparing' || state === 'resuming')
      .map(({ sandboxMetadata }) => sandboxMetadata.uid),
  ];
  const living = (await node.cri.listSandboxes()).map(({ metadata }) => metadata?.uid);
  for (const name of names) {
    if (!living.includes(name) && !restoring.includes(name))
      await rm(join(folder, name), { recursive: true, force: true });
  }
}
