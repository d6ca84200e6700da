import { readdir, readFile } from 'node:fs/promises';

const KIB = 1024;

/** CPU time of a process so far, of all threads that still are, in milliseconds (/proc/PID/task/TID/schedstat, in ns). */
export async function cpuMs(pid: number): Promise<number> {
  let nanoseconds = 0;
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    const text = await readFile(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').catch(() => '0');
    nanoseconds += Number(text.split(' ')[0]);
  }
  return nanoseconds / 1e6;
}

/** Resident memory in bytes: now, and at most so far (proc_pid_status(5)). */
export async function memory(pid: number): Promise<{ resident: number; peak: number }> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8');
  const of = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? Number.NaN) * KIB;
  return { resident: of('VmRSS'), peak: of('VmHWM') };
}
