import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { decodeImage } from '../criu/image.ts';
import { selectEntries } from '../criu/select.ts';
import { GantryError } from '../errors.ts';
import { ContainerState } from '../gen/cri.ts';
import type { SandboxDetail } from '../runtime/cri.ts';
import { run } from '../runtime/program.ts';

/*
 * System V IPC is the sandbox's: it outlives containers, and the images of each hold all of it. CRIU makes what it finds in
 * the images anew, under the same keys and IDs, which must be free.
 */

/** A segment of memory, a set of semaphores or a queue of messages. */
export interface IpcObject {
  readonly kind: 'shm' | 'sem' | 'msg';
  /** By which programs find it; 0 for one without. */
  readonly key: number;
  readonly id: number;
}

const KINDS = ['shm', 'sem', 'msg'] as const;
const IMAGES = { shm: 'IPCNS_SHM', sem: 'IPCNS_SEM', msg: 'IPCNS_MSG' } as const;
/** Options of ipcrm(1). */
const REMOVE = { shm: '--shmem-id', sem: '--semaphore-id', msg: '--queue-id' } as const;
/** An ID is a place in the kernel's table, and above it how often that was used (IPCMNI of linux/ipc_namespace.h). */
const PLACES = 32_768;
/** Of a mapping's status: CRIU's VMA_AREA_SYSVIPC. */
const IS_SEGMENT = 1 << 10;

/**
 * Leaves each object to one of the containers of a pod: a segment to who has mapped it, as CRIU maps only what it has made
 * itself, and the rest to the first. Changes their images. Errors: UNSUPPORTED, for a segment that several have mapped.
 *
 * @param folders of CRIU's images, in the order in which they will be restored
 */
export async function shareOutIpc(folders: readonly string[]): Promise<void> {
  const owners = new Map<number, string>();
  for (const folder of folders) {
    for (const id of await mappedSegments(folder)) {
      if (owners.has(id)) {
        throw new GantryError('UNSUPPORTED', `two containers have mapped the same System V segment (${id})`, {
          hint: 'CRIU restores each container on its own, and cannot map what another one has made: use /dev/shm for what they share',
        });
      }
      owners.set(id, folder);
    }
  }
  const [first] = folders;
  for (const folder of folders) {
    for (const { name, kind } of await ipcImages(folder)) {
      const isOwn = ({ desc: { id } }: { desc: { id: number } }) =>
        folder === ((kind === 'shm' ? owners.get(id) : undefined) ?? first);
      const file = join(folder, name);
      await writeFile(file, selectEntries(name, await readFile(file), IMAGES[kind], isOwn), { mode: 0o600 });
    }
  }
}

/**
 * Removes from a sandbox what a container of before has left there, where it is in the way of a checkpoint's. Errors:
 * NOT_FITTING, when a container runs that may use it.
 *
 * @param folders of CRIU's images
 */
export async function makeRoomForIpc(node: Node, sandbox: SandboxDetail, folders: readonly string[]): Promise<void> {
  const wanted = (await Promise.all(folders.map(objectsIn))).flat();
  if (wanted.length === 0) return;
  const enter = `--ipc=/proc/${sandbox.pid}/ns/ipc`;
  const tables = KINDS.map((kind) => `/proc/sysvipc/${kind}`);
  const inTheWay = collisions(wanted, parseObjects(await run('nsenter', [enter, 'cat', ...tables], { name: 'cat' })));
  const [first] = inTheWay;
  if (first === undefined) return;
  const [user] = (await node.cri.listContainers()).filter(
    ({ podSandboxId, state }) => podSandboxId === sandbox.id && state === ContainerState.CONTAINER_RUNNING,
  );
  if (user !== undefined) {
    throw new GantryError(
      'NOT_FITTING',
      `the sandbox has System V IPC that the checkpoint has, too (${first.kind} ${first.id}), and container ${user.metadata?.name} may use it`,
      { hint: 'stop the other containers of the pod first, or restore into a new sandbox' },
    );
  }
  const options = inTheWay.flatMap(({ kind, id }) => [REMOVE[kind], String(id)]);
  await run('nsenter', [enter, 'ipcrm', ...options], { name: 'ipcrm' });
}

/** Pure: those that have the key or the place of one that is wanted. */
export function collisions(wanted: readonly IpcObject[], there: readonly IpcObject[]): IpcObject[] {
  return there.filter((one) =>
    wanted.some(
      ({ kind, key, id }) => kind === one.kind && ((key !== 0 && key === one.key) || id % PLACES === one.id % PLACES),
    ),
  );
}

/** Pure: the tables of proc_sysvipc(5) for segments, semaphores and queues one after another, each below a line of titles. */
export function parseObjects(tables: string): IpcObject[] {
  const parts = tables.split(/^ +key +\w+id\b.*$/m).slice(1);
  return parts.flatMap((part, index) =>
    [...part.matchAll(/^ *(-?\d+) +(\d+) /gm)].map(([, key, id]) => ({
      kind: KINDS[index] ?? 'msg',
      key: Number(key) >>> 0,
      id: Number(id),
    })),
  );
}

async function objectsIn(folder: string): Promise<IpcObject[]> {
  const found: IpcObject[] = [];
  for (const { name, kind } of await ipcImages(folder)) {
    const { entries } = decodeImage(name, await readFile(join(folder, name)), IMAGES[kind]);
    for (const { desc } of entries) found.push({ kind, key: desc.key >>> 0, id: desc.id });
  }
  return found;
}

async function ipcImages(folder: string): Promise<{ readonly name: string; readonly kind: IpcObject['kind'] }[]> {
  const names = await readdir(folder);
  return KINDS.flatMap((kind) =>
    names.filter((name) => name.startsWith(`ipcns-${kind}-`)).map((name) => ({ name, kind })),
  );
}

/** IDs of those that a process has mapped. */
async function mappedSegments(folder: string): Promise<Set<number>> {
  const ids = new Set<number>();
  for (const name of (await readdir(folder)).filter((one) => /^mm-\d+\.img$/.test(one))) {
    for (const { vmas } of decodeImage(name, await readFile(join(folder, name)), 'MM').entries)
      for (const { status, shmid } of vmas) if ((status & IS_SEGMENT) !== 0) ids.add(Number(shmid));
  }
  return ids;
}
