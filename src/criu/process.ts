import type { CoreEntry, PstreeEntry } from '../gen/criu.ts';
import { type Credentials, credentialsOf, limitsOf, type ResourceLimit } from './credentials.ts';
import { badImage } from './cursor.ts';
import type { FileTable } from './file-table.ts';
import type { ImageSet } from './image-set.ts';
import { fileOf } from './kinds.ts';
import { type ProcessMemory, readProcessMemory } from './memory.ts';
import type { DescriptorTables, OpenFile } from './open-files.ts';

export interface Thread {
  readonly tid: number;
  readonly comm: string;
}

/** All numbers of processes are those of the innermost PID namespace that was dumped. */
export interface Process {
  readonly pid: number;
  /** 0: its parent is outside the checkpoint. */
  readonly ppid: number;
  readonly pgid: number;
  readonly sid: number;
  readonly state: 'alive' | 'stopped' | 'zombie' | 'dead' | 'unknown';
  /** What it ended with, as wait(2) tells it; of a zombie. */
  readonly exitStatus: number;
  readonly comm: string;
  /** With the main one, in the order of the images. */
  readonly threads: readonly Thread[];
  /** undefined for a process that has ended. */
  readonly credentials?: Credentials;
  readonly limits: readonly ResourceLimit[];
  readonly memory?: ProcessMemory;
  readonly workingFolder?: string;
  readonly rootFolder?: string;
  readonly files: readonly OpenFile[];
  /** Number of its set in {@link Cgroups}. */
  readonly cgroupSet?: number;
  readonly oomScoreAdjust?: number;
  readonly children: readonly Process[];
}

/** Of compel's task-state.h. */
const STATE: Readonly<Record<number, Process['state']>> = { 1: 'alive', 2: 'dead', 3: 'stopped', 6: 'zombie' };

/** What one process is, without its children. Errors: BAD_ARCHIVE. */
export async function readProcess(
  images: ImageSet,
  entry: PstreeEntry,
  core: CoreEntry,
  files: FileTable,
  tables: DescriptorTables,
): Promise<Omit<Process, 'children'>> {
  const { pid, ppid, pgid, sid } = entry;
  const { tc, thread_core } = core;
  if (tc === undefined) throw badImage(fileOf('CORE', pid), 'it is of a thread, the process tree says a process');
  const creds = thread_core?.creds ?? (await images.entry('CREDS', pid));
  const memory = await readProcessMemory(images, pid, files);
  const cgroupSet = thread_core?.cg_set ?? tc.cg_set;
  const ids = core.ids ?? (await images.entry('IDS', pid));
  const fs = await images.entry('FS', pid);
  const workingFolder = fs && files.pathOf(fs.cwd_id);
  const rootFolder = fs && files.pathOf(fs.root_id);
  return {
    pid,
    ppid,
    pgid,
    sid,
    state: STATE[tc.task_state] ?? 'unknown',
    exitStatus: tc.exit_code,
    comm: tc.comm,
    threads: await readThreads(images, entry, tc.comm),
    ...(creds === undefined ? {} : { credentials: credentialsOf(creds, core) }),
    limits: limitsOf(core),
    ...(memory === undefined ? {} : { memory }),
    ...(workingFolder === undefined ? {} : { workingFolder }),
    ...(rootFolder === undefined ? {} : { rootFolder }),
    files: ids === undefined ? [] : await tables.read(ids.files_id),
    ...(cgroupSet === undefined ? {} : { cgroupSet }),
    ...(tc.oom_score_adj === undefined ? {} : { oomScoreAdjust: tc.oom_score_adj }),
  };
}

async function readThreads(images: ImageSet, { pid, threads }: PstreeEntry, comm: string): Promise<Thread[]> {
  const found: Thread[] = [];
  for (const tid of threads) {
    const core = tid === pid ? undefined : await images.required('CORE', tid);
    // A thread that never had a name of its own has the process's.
    found.push({ tid, comm: core?.thread_core?.comm ?? comm });
  }
  return found;
}
