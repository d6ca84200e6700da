import { run } from '../../runtime/program.ts';

/** What a System V IPC namespace holds (proc_sysvipc(5)). */
export interface IpcObjects {
  /** IDs of segments of shared memory: their mappings have them as inode. */
  readonly segments: readonly { readonly id: number; readonly bytes: number; readonly attached: number }[];
  readonly semaphores: number;
  readonly queues: number;
}

/** Of the namespace that a process is in: the tables are those of whoever reads them. */
export async function ipcObjects(pid: number, signal: AbortSignal): Promise<IpcObjects> {
  const tables = ['shm', 'sem', 'msg'].map((name) => `/proc/sysvipc/${name}`);
  const text = await run('nsenter', [`--ipc=/proc/${pid}/ns/ipc`, 'cat', ...tables], { signal, name: 'cat' });
  return parseIpc(text);
}

/** Pure: the three tables one after another, each with a line that names its columns. */
export function parseIpc(text: string): IpcObjects {
  const [shm = [], sem = [], msg = []] = text
    .split(/^ +key +\w+id\b.*$/m)
    .slice(1)
    .map((part) => part.split('\n').filter((line) => line.trim() !== ''));
  const segments = shm.map((line) => {
    const words = line.trim().split(/\s+/);
    return { id: Number(words[1]), bytes: Number(words[3]), attached: Number(words[6]) };
  });
  return { segments, semaphores: sem.length, queues: msg.length };
}
