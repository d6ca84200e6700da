import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exists } from '../durable.ts';
import { GantryError } from '../errors.ts';
import { endWithChildren, findProcesses } from './processes.ts';
import { run } from './program.ts';

const NAMESPACE = 'k8s.io';
/** A shim that ends does so within milliseconds. */
const SHIM_LOOKS = 20;
const SHIM_LOOK_MS = 100;
/** Where containerd's runc v2 shim keeps runc's state of CRI containers. */
export const RUNC_ROOT = `/run/containerd/runc/${NAMESPACE}`;

/**
 * The folder that holds a container's writable layer (the overlay's upper folder), also before the container was ever
 * started. Errors: UNSUPPORTED, for a snapshotter that makes no overlay.
 */
export async function writableLayer(socket: string, snapshotter: string, key: string): Promise<string> {
  const text = await run(
    'ctr',
    ['-a', socket, '-n', NAMESPACE, 'snapshots', '--snapshotter', snapshotter, 'mounts', '/x', key],
    { reason: 'RUNTIME_UNAVAILABLE' },
  );
  const upper = parseUpperFolder(text);
  if (upper === undefined) {
    throw new GantryError(
      'UNSUPPORTED',
      `snapshotter ${snapshotter} keeps no overlay: its writable layer cannot be moved`,
    );
  }
  return upper;
}

/** Pure part of {@link writableLayer}: `text` is the mount command that ctr prints. */
export function parseUpperFolder(text: string): string | undefined {
  return /[ ,]upperdir=([^,\s]+)/.exec(text)?.[1];
}

/**
 * Removes what the OCI runtime still has of a container that containerd knows no more: when the caller of a start dies, the
 * shim kills the runtime in the middle of its work, and its record stays, perhaps with a process.
 */
export async function removeRuntimeRecord(id: string): Promise<void> {
  if (!(await exists(join(RUNC_ROOT, id)))) return;
  await run((await findRuntime(id)) ?? 'crun', ['--root', RUNC_ROOT, 'delete', '--force', id]);
}

/** Ends what containerd has of a container's processes, past its CRI. Errors: RUNTIME_UNAVAILABLE, also where there is nothing. */
export async function endTask(socket: string, container: string): Promise<void> {
  await run('ctr', ['-a', socket, '-n', NAMESPACE, 'tasks', 'delete', '--force', container], {
    reason: 'RUNTIME_UNAVAILABLE',
  });
}

/**
 * Ends the shim of a sandbox that is removed. It ends by itself, but for one that had a start cut off: it waits for ever for a
 * container that containerd has never heard of.
 */
export async function endShim(sandbox: string): Promise<void> {
  const isShim = (args: readonly string[]) =>
    basename(args[0] ?? '').startsWith('containerd-shim') && args[args.indexOf('-id') + 1] === sandbox;
  for (let look = 0; look < SHIM_LOOKS; look++) {
    if ((await findProcesses(isShim)).length === 0) return;
    await sleep(SHIM_LOOK_MS);
  }
  await endWithChildren((await findProcesses(isShim)).map(({ pid }) => pid));
}

export type OciRuntime = 'runc' | 'crun';

/**
 * Which OCI runtime keeps a container or sandbox that was started: their shims give both the same folder, in which each
 * has a file of its own. Undefined for other runtimes.
 */
export async function findRuntime(id: string): Promise<OciRuntime | undefined> {
  if (await exists(join(RUNC_ROOT, id, 'state.json'))) return 'runc';
  return (await exists(crunStatus(id))) ? 'crun' : undefined;
}

/** The same, where it has to be one of these. Errors: UNSUPPORTED. */
export async function runtimeOf(id: string): Promise<OciRuntime> {
  const runtime = await findRuntime(id);
  if (runtime !== undefined) return runtime;
  throw new GantryError('UNSUPPORTED', `neither runc nor crun keeps ${id}: only their containers have checkpoints`);
}

/** The folder from which crun finds a container's files: it takes paths in it as they are in its own working directory. */
export async function crunBundle(id: string): Promise<string> {
  const { bundle } = JSON.parse(await readFile(crunStatus(id), 'utf8')) as { bundle: string };
  return bundle;
}

function crunStatus(id: string): string {
  return join(RUNC_ROOT, id, 'status');
}

/** Resident memory of processes, in bytes: about what CRIU's images of them will take. */
export async function residentBytes(pids: readonly number[]): Promise<number> {
  const pages = await Promise.all(
    pids.map((pid) =>
      readFile(`/proc/${pid}/statm`, 'utf8').then(
        (text) => Number(text.split(' ')[1]),
        () => 0,
      ),
    ),
  );
  return pages.reduce((sum, count) => sum + count, 0) * 4096;
}
