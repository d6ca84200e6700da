import { linesOf, linkOf, namesIn, textOf } from './read.ts';

export const NAMESPACES = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'time', 'user', 'uts'] as const;
export type NamespaceKind = (typeof NAMESPACES)[number];

/** What proc_pid_stat(5) and proc_pid_status(5) tell of a process; PIDs are the node's. */
export interface ProcessFacts {
  readonly pid: number;
  readonly parent: number;
  readonly command: string;
  /** R, S, D, Z, T, t, X. */
  readonly state: string;
  /** PID of the one that traces it; 0: nobody. */
  readonly tracer: number;
  /** IDs of threads in uninterruptible sleep at this moment. */
  readonly uninterruptible: readonly number[];
  readonly threads: number;
  /** Real, effective, saved and file system's user and group. */
  readonly ids: readonly number[];
  /** Effective, bit by bit (capabilities(7)). */
  readonly capabilities: bigint;
  /** Of the security module, "" when there is none. */
  readonly label: string;
  readonly namespaces: Readonly<Record<NamespaceKind, string>>;
}

export async function processFacts(pid: number): Promise<ProcessFacts | undefined> {
  const directory = `/proc/${pid}`;
  const [stat, status, label, threads] = await Promise.all([
    textOf(`${directory}/stat`),
    linesOf(`${directory}/status`),
    textOf(`${directory}/attr/current`),
    namesIn(`${directory}/task`),
  ]);
  const parsed = parseStat(stat);
  if (parsed === undefined) return undefined;
  const links = NAMESPACES.map(async (kind) => [kind, await linkOf(`${directory}/ns/${kind}`)] as const);
  return {
    pid,
    ...parsed,
    tracer: Number(status.find((line) => line.startsWith('TracerPid:'))?.slice(10) ?? 0),
    uninterruptible: await uninterruptibleAmong(pid, threads),
    threads: threads.length,
    ids: status.filter((line) => /^[UG]id:/.test(line)).flatMap((line) => line.split(/\s+/).slice(1).map(Number)),
    capabilities: BigInt(
      `0x${
        status
          .find((line) => line.startsWith('CapEff:'))
          ?.slice(7)
          .trim() || '0'
      }`,
    ),
    label: label.replaceAll('\0', '').trim(),
    namespaces: Object.fromEntries(await Promise.all(links)) as Record<NamespaceKind, string>,
  };
}

/** Threads of a process that are in state D now: a moment of it is nothing, so whoever asks asks twice. */
export async function uninterruptibleOf(pid: number): Promise<number[]> {
  return uninterruptibleAmong(pid, await namesIn(`/proc/${pid}/task`));
}

/** Children of all threads of a process (proc_tid_children(5)). */
export async function childrenOf(pid: number): Promise<number[]> {
  const threads = await namesIn(`/proc/${pid}/task`);
  const lists = await Promise.all(threads.map((id) => textOf(`/proc/${pid}/task/${id}/children`)));
  return lists.flatMap((list) => list.split(' ').filter(Boolean).map(Number));
}

async function uninterruptibleAmong(pid: number, threads: readonly string[]): Promise<number[]> {
  const states = await Promise.all(
    threads.map(async (id) => [Number(id), parseStat(await textOf(`/proc/${pid}/task/${id}/stat`))?.state] as const),
  );
  return states.flatMap(([id, state]) => (state === 'D' ? [id] : []));
}

/** Pure: the command is in brackets and may hold anything, brackets too. */
export function parseStat(text: string): Pick<ProcessFacts, 'parent' | 'command' | 'state'> | undefined {
  const [open, close] = [text.indexOf('('), text.lastIndexOf(')')];
  if (open < 0 || close < 0) return undefined;
  const [state = '', parent = '0'] = text.slice(close + 2).split(' ');
  return { command: text.slice(open + 1, close), state, parent: Number(parent) };
}
