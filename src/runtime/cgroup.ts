import { readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exists } from '../durable.ts';
import { GantryError } from '../errors.ts';

const ROOT = '/sys/fs/cgroup';
/** Freezing takes a few milliseconds; each further try may take twice as long as the one before. */
const FIRST_TRY_MS = 50;
/** More than a vforked child needs to become another program. */
const VFORK_MS = 5;

/** The freezer of one container, on cgroup v1 (its own hierarchy) or v2. */
export interface Freezer {
  /** The file that is written, under /sys/fs/cgroup. */
  readonly file: string;
  readonly version: 1 | 2;
}

/** Finds the freezer of the cgroup that a process is in (cgroups(7)). */
export async function freezerOf(pid: number): Promise<Freezer> {
  const lines = (await readFile(`/proc/${pid}/cgroup`, 'utf8')).trim().split('\n');
  return parseFreezer(lines);
}

/**
 * The freezer of a container; undefined once its processes have ended. The runtime tells their PID for longer, and another
 * process may have it by then: only the container's own group counts.
 */
export async function ownFreezer({
  id,
  pid,
}: {
  readonly id: string;
  readonly pid: number;
}): Promise<Freezer | undefined> {
  if (!(await exists(`/proc/${pid}/cgroup`))) return undefined;
  const freezer = await freezerOf(pid);
  return freezer.file.includes(id) ? freezer : undefined;
}

/** Pure part of freezerOf: `lines` are those of /proc/PID/cgroup. */
export function parseFreezer(lines: readonly string[]): Freezer {
  for (const line of lines) {
    const [, controllers = '', ...rest] = line.split(':');
    if (controllers.split(',').includes('freezer')) {
      return { version: 1, file: `${ROOT}/freezer${rest.join(':')}/freezer.state` };
    }
  }
  const unified = lines.find((line) => line.startsWith('0::'));
  if (unified === undefined) throw new GantryError('UNSUPPORTED', 'the container is in no cgroup that can be frozen');
  return { version: 2, file: `${ROOT}${unified.slice(3)}/cgroup.freeze` };
}

/**
 * Freezes every process of the container, so that CRIU can stop them, and waits until the kernel says so. A try that
 * meets a vfork (of a shell, or posix_spawn) is given up and made again: the parent waits for a child that is frozen.
 * Errors: CHECKPOINT_FAILED; it is thawed then.
 */
export async function freeze(freezer: Freezer, limitMs = 5000): Promise<void> {
  const until = performance.now() + limitMs;
  for (let tryMs = FIRST_TRY_MS; ; tryMs *= 2) {
    const leftMs = until - performance.now();
    if ((await freezeWithin(freezer, Math.min(tryMs, leftMs))) && !(await waitsInVfork(freezer))) return;
    await thaw(freezer);
    if (leftMs < tryMs) throw notFrozen(limitMs);
    await sleep(VFORK_MS);
  }
}

/** Says again that it is frozen: CRIU thaws the cgroup once it has seized the tasks. Nothing may run between, so one try. */
export async function refreeze(freezer: Freezer, limitMs = 5000): Promise<void> {
  if (await freezeWithin(freezer, limitMs)) return;
  await thaw(freezer);
  throw notFrozen(limitMs);
}

async function freezeWithin(freezer: Freezer, limitMs: number): Promise<boolean> {
  await writeFile(freezer.file, freezer.version === 1 ? 'FROZEN' : '1');
  const until = performance.now() + limitMs;
  while (!(await isFrozen(freezer))) {
    if (performance.now() > until) return false;
    await sleep(1);
  }
  return true;
}

/** Whether a thread waits in the kernel for the child of its vfork to become another program or end. */
async function waitsInVfork(freezer: Freezer): Promise<boolean> {
  const file = freezer.file.replace(/[^/]+$/, freezer.version === 1 ? 'tasks' : 'cgroup.threads');
  const threads = (await readFile(file, 'utf8')).split('\n').filter(Boolean);
  const places = await Promise.all(threads.map((id) => readFile(`/proc/${id}/wchan`, 'utf8').catch(() => '')));
  return places.some((place) => place === 'kernel_clone' || place === 'wait_for_vfork_done');
}

function notFrozen(limitMs: number): GantryError {
  return new GantryError('CHECKPOINT_FAILED', `the container's processes did not freeze within ${limitMs} ms`, {
    hint: 'a task is probably in uninterruptible sleep (state D): look at ps -eo pid,stat,wchan,args',
  });
}

export async function thaw(freezer: Freezer): Promise<void> {
  await writeFile(freezer.file, freezer.version === 1 ? 'THAWED' : '0');
}

export async function isFrozen(freezer: Freezer): Promise<boolean> {
  if (freezer.version === 1) return (await readFile(freezer.file, 'utf8')).trim() === 'FROZEN';
  const events = await readFile(freezer.file.replace(/cgroup\.freeze$/, 'cgroup.events'), 'utf8');
  return events.includes('frozen 1');
}

/** PIDs of every process in the container, as this PID namespace sees them. */
export async function processesOf(freezer: Freezer): Promise<number[]> {
  const text = await readFile(freezer.file.replace(/[^/]+$/, 'cgroup.procs'), 'utf8');
  return text.split('\n').filter(Boolean).map(Number);
}

/**
 * Removes the groups of a container that is no more: a runtime that is killed in the middle of a start leaves them, and
 * nobody else knows of them. Those that are in use stay.
 *
 * @param path as the runtime's specification has it ("/k8s.io/ID"); systemd's own are systemd's to remove
 */
export async function removeEmptyGroups(path: string): Promise<void> {
  if (!path.startsWith('/')) return;
  const entries = await readdir(ROOT, { withFileTypes: true });
  const folders = entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(ROOT, name, path));
  // crun's own, while it restores.
  for (const folder of [join(ROOT, path), ...folders])
    for (const group of [join(folder, '.proxy-crun'), folder]) await rmdir(group).catch(() => undefined);
}
