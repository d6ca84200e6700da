import type { TaskKobjIdsEntry } from '../gen/criu.ts';
import type { ImageSet } from './image-set.ts';
import type { Kind } from './kinds.ts';

export type NamespaceKind = 'net' | 'ipc' | 'uts' | 'mnt' | 'pid' | 'user' | 'time' | 'cgroup';

/** One that a process of the checkpoint is in. */
export interface Namespace {
  readonly kind: NamespaceKind;
  /** CRIU's number. */
  readonly id: number;
  /** It is in the checkpoint; otherwise the processes shared it with who dumped them, and take what they find. */
  readonly dumped: boolean;
  /** Of a network or PID namespace that whoever restores has to give: its name for that. */
  readonly externalKey?: string;
  /** Of a UTS namespace. */
  readonly hostname?: string;
}

const FIELD = {
  net: 'net_ns_id',
  ipc: 'ipc_ns_id',
  uts: 'uts_ns_id',
  mnt: 'mnt_ns_id',
  pid: 'pid_ns_id',
  user: 'user_ns_id',
  time: 'time_ns_id',
  cgroup: 'cgroup_ns_id',
} as const satisfies Record<NamespaceKind, keyof TaskKobjIdsEntry>;

/** The image that is there when one of the kind was dumped; cgroup namespaces have none. */
const IMAGE = {
  net: 'NETNS',
  ipc: 'IPC_VAR',
  uts: 'UTSNS',
  mnt: 'MNTS',
  user: 'USERNS',
  time: 'TIMENS',
} as const satisfies Partial<Record<NamespaceKind, Kind>>;

/**
 * @param tasks the numbers of each process
 * @param root those of who dumped them
 */
export async function readNamespaces(
  images: ImageSet,
  tasks: readonly TaskKobjIdsEntry[],
  root: TaskKobjIdsEntry | undefined,
): Promise<Namespace[]> {
  const found: Namespace[] = [];
  for (const kind of Object.keys(FIELD) as NamespaceKind[]) {
    const ids = new Set(tasks.map((ids) => ids[FIELD[kind]]).filter((id) => id !== undefined && id !== 0));
    for (const id of ids as Set<number>) found.push(await describeOne(images, kind, id, root?.[FIELD[kind]]));
  }
  return found;
}

async function describeOne(images: ImageSet, kind: NamespaceKind, id: number, outer?: number): Promise<Namespace> {
  const hostname = kind === 'uts' ? (await images.entry('UTSNS', id))?.nodename : undefined;
  const net = kind === 'net' ? (await images.entry('NETNS', id))?.ext_key : undefined;
  const externalKey = kind === 'pid' ? (await images.entry('PIDNS', id))?.ext_key : net;
  const dumped =
    kind in IMAGE ? images.has(IMAGE[kind as keyof typeof IMAGE], id) : outer !== undefined && id !== outer;
  return {
    kind,
    id,
    dumped,
    ...(externalKey === undefined ? {} : { externalKey }),
    ...(hostname === undefined ? {} : { hostname }),
  };
}
