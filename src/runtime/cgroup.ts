import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { GantryError } from '../errors.ts';

const ROOT = '/sys/fs/cgroup';

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
 * Freezes every process of the container and waits until the kernel says so. Idempotent: CRIU thaws the cgroup once it
 * has seized the tasks, so this is called again afterwards.
 */
export async function freeze(freezer: Freezer, limitMs = 5000): Promise<void> {
  await writeFile(freezer.file, freezer.version === 1 ? 'FROZEN' : '1');
  const until = performance.now() + limitMs;
  while (!(await isFrozen(freezer))) {
    if (performance.now() > until) {
      await thaw(freezer);
      throw new GantryError('CHECKPOINT_FAILED', `the container's processes did not freeze within ${limitMs} ms`, {
        hint: 'a task is probably in uninterruptible sleep (state D): look at ps -eo pid,stat,wchan,args',
      });
    }
    await sleep(1);
  }
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
