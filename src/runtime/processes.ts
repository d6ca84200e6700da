import { readdir, readFile } from 'node:fs/promises';
import { kill } from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';

export interface FoundProcess {
  pid: number;
  args: string[];
}

/** The processes whose arguments are as wanted. */
export async function findProcesses(isWanted: (args: readonly string[]) => boolean): Promise<FoundProcess[]> {
  const all = await Promise.all(
    (await pids()).map(async (pid) => {
      const text = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
      return { pid, args: text.split('\0').slice(0, -1) };
    }),
  );
  return all.filter(({ args }) => isWanted(args));
}

/**
 * Ends processes with all that they have started, and waits until they are gone. They are stopped first: what is stopped
 * starts nothing more.
 */
export async function endWithChildren(roots: readonly number[], limitMs = 5000): Promise<void> {
  const stopped = new Set<number>();
  for (let found = roots; found.length > 0; ) {
    for (const pid of found) signal(pid, 'SIGSTOP');
    for (const pid of found) stopped.add(pid);
    const parents = await parentOfEach();
    found = [...parents].flatMap(([pid, parent]) => (stopped.has(parent) && !stopped.has(pid) ? [pid] : []));
  }
  for (const pid of stopped) signal(pid, 'SIGKILL');
  const until = performance.now() + limitMs;
  while (performance.now() < until) {
    const alive = await parentOfEach();
    if (![...stopped].some((pid) => alive.has(pid))) return;
    await sleep(5);
  }
}

/** Every process that lives (zombies do not) and its parent: fields 3 and 4 of proc_pid_stat(5). */
async function parentOfEach(): Promise<Map<number, number>> {
  const parents = new Map<number, number>();
  for (const pid of await pids()) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    const [state = 'X', parent = '0'] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (!/[ZX]/.test(state)) parents.set(pid, Number(parent));
  }
  return parents;
}

async function pids(): Promise<number[]> {
  return (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    kill(pid, name);
  } catch {
    // It has ended meanwhile.
  }
}
