import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, ifPresent, LabError } from './failure.ts';
import { mounts } from './mounts.ts';
import { startTimeOf } from './registry.ts';

/** All labs live below one cgroup of this name in every hierarchy: GROUP/LAB/NODE. */
const GROUP = 'gantry-lab';

interface Hierarchy {
  readonly path: string;
  readonly version: 1 | 2;
  readonly controllers: readonly string[];
}

async function hierarchies(): Promise<Hierarchy[]> {
  return (await mounts())
    .filter(
      ({ type, root, path }) =>
        (type === 'cgroup' || type === 'cgroup2') && root === '/' && path.startsWith('/sys/fs/cgroup'),
    )
    .map(({ type, path, options }) => ({ path, version: type === 'cgroup' ? 1 : 2, controllers: options }));
}

/** Makes the cgroups of one node; what it starts there gets the same CPUs and memory nodes as the host. */
export async function createCgroups(lab: string, node: string): Promise<void> {
  const all = await hierarchies();
  if (all.length === 0) throw new LabError('no cgroup hierarchy is mounted below /sys/fs/cgroup');
  for (const hierarchy of all) {
    let folder = hierarchy.path;
    for (const name of [GROUP, lab, node]) {
      if (all.length === 1 && hierarchy.version === 2) await delegate(folder);
      folder = join(folder, name);
      await mkdir(folder, { recursive: true });
      if (hierarchy.controllers.includes('cpuset')) await inheritCpus(folder);
    }
  }
}

/** An empty cpuset admits no process, and a cgroup v1 cpuset starts empty. */
async function inheritCpus(folder: string): Promise<void> {
  await writeFile(join(folder, 'cgroup.clone_children'), '1');
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    if ((await readFile(join(folder, file), 'utf8')).trim() !== '') continue;
    await writeFile(join(folder, file), await readFile(join(dirname(folder), file)));
  }
}

/** Untested: cgroup2 alone, where each level has to enable the controllers of the next. */
async function delegate(folder: string): Promise<void> {
  const controllers = (await readFile(join(folder, 'cgroup.controllers'), 'utf8')).trim().split(' ').filter(Boolean);
  for (const name of controllers) await writeFile(join(folder, 'cgroup.subtree_control'), `+${name}`);
}

/** Labs that have a cgroup, whether or not the registry knows them. */
export async function labsWithCgroups(): Promise<string[]> {
  const names = new Set<string>();
  for (const { path } of await hierarchies()) {
    for (const entry of await ifPresent(readdir(join(path, GROUP), { withFileTypes: true }), [])) {
      if (entry.isDirectory()) names.add(entry.name);
    }
  }
  return [...names];
}

/** PIDs of everything that runs in a lab, or in one of its nodes. */
export async function processesOf(lab: string, node = ''): Promise<Set<number>> {
  const pids = new Set<number>();
  for (const folder of await foldersOf(lab, node)) {
    for (const pid of (await ifPresent(readFile(join(folder, 'cgroup.procs'), 'utf8'), '')).split('\n')) {
      if (Number(pid) > 0) pids.add(Number(pid));
    }
  }
  return pids;
}

/**
 * Ends every process of a lab, or of one of its nodes, and removes their cgroups; tries again until nothing is left,
 * for at most `limitMs`.
 */
export async function destroyCgroups(lab: string, node = '', limitMs = 15_000): Promise<void> {
  const until = performance.now() + limitMs;
  const killed = new Set<number>();
  for (;;) {
    const folders = await foldersOf(lab, node);
    if (folders.length === 0) break;
    await thaw(folders);
    const pids = await processesOf(lab, node);
    for (const pid of pids) if (kill(pid)) killed.add(pid);
    if (pids.size === 0) for (const folder of folders.toReversed()) await removeFolder(folder);
    if (performance.now() > until) throw await stuck(lab, pids);
    await sleep(pids.size === 0 ? 5 : 20);
  }
  for (const { path } of await hierarchies()) await removeFolder(join(path, GROUP));
  // A cgroup no longer names a process that is on its way out, but its mounts and memory are freed only at the end.
  // Zombies have none left: when the host's PID 1 takes note of them is its affair.
  for (const pid of killed) {
    while ((await startTimeOf(pid)) !== undefined && performance.now() < until) await sleep(5);
  }
}

/** Every cgroup of a lab, parents first. */
async function foldersOf(lab: string, node = ''): Promise<string[]> {
  const found: string[] = [];
  const visit = async (folder: string): Promise<void> => {
    const entries = await ifPresent(readdir(folder, { withFileTypes: true }), undefined);
    if (entries === undefined) return;
    found.push(folder);
    for (const entry of entries) if (entry.isDirectory()) await visit(join(folder, entry.name));
  };
  for (const { path } of await hierarchies()) await visit(join(path, GROUP, lab, node));
  return found;
}

/** A frozen process does not take SIGKILL on cgroup v1; a test that crashed may have left some. */
async function thaw(folders: readonly string[]): Promise<void> {
  for (const folder of folders) {
    await set(join(folder, 'freezer.state'), 'THAWED');
    await set(join(folder, 'cgroup.freeze'), '0');
  }
}

/** Writes to a cgroup file where it exists: O_CREAT is refused in these file systems. */
async function set(file: string, value: string): Promise<void> {
  await ifPresent(writeFile(file, value, { flag: 'r+' }), undefined);
}

/** Whether there was such a process. */
function kill(pid: number): boolean {
  try {
    return process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return false;
    throw error;
  }
}

async function removeFolder(folder: string): Promise<void> {
  try {
    await ifPresent(rmdir(folder), undefined);
  } catch (error) {
    // Still in use for some milliseconds after its last process has gone, or another lab is in it.
    if (codeOf(error) !== 'EBUSY' && codeOf(error) !== 'ENOTEMPTY') throw error;
  }
}

async function stuck(lab: string, pids: ReadonlySet<number>): Promise<LabError> {
  const states = await Promise.all(
    [...pids].slice(0, 10).map(async (pid) => {
      const stat = await ifPresent(readFile(`/proc/${pid}/stat`, 'utf8'), '');
      return stat.split(' ').slice(0, 3).join(' ');
    }),
  );
  const what = states.length > 0 ? `processes do not end: ${states.join(', ')}` : 'its cgroups cannot be removed';
  return new LabError(`lab ${lab}: ${what}`, {
    hint: 'state D waits for the kernel: run the same command again later',
  });
}
