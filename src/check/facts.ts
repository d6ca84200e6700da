import type { Node } from '../agent/node.ts';
import { volumesOf } from '../checkpoint/volumes.ts';
import { GantryError } from '../errors.ts';
import { NamespaceMode } from '../gen/cri.ts';
import { freezerOf, processesOf } from '../runtime/cgroup.ts';
import { findRuntime, type OciRuntime, writableLayer } from '../runtime/containerd.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { run } from '../runtime/program.ts';
import { type Descriptor, descriptorsOf } from './proc/descriptors.ts';
import { allLocks, type Lock } from './proc/locks.ts';
import { type Area, areasOf } from './proc/memory.ts';
import { type Mount, mountsOf, type VolumeKind, volumeKind } from './proc/mounts.ts';
import {
  childrenOf,
  type NamespaceKind,
  type ProcessFacts,
  processFacts,
  uninterruptibleOf,
} from './proc/processes.ts';
import { type NamedSocket, nameSockets } from './proc/socket-names.ts';
import { type SocketRow, socketRows, type UnixPeer, unixPeers } from './proc/sockets.ts';

const FILES_LIMIT_MS = 10_000;

/** Everything about one running container that a finding may rest on. PIDs are the node's. */
export interface ContainerFacts {
  readonly id: string;
  readonly name: string;
  readonly init: number;
  readonly runtimeHandler: string;
  /** Undefined for one that Gantry does not know. */
  readonly runtime: OciRuntime | undefined;
  readonly hasTerminal: boolean;
  readonly devices: readonly string[];
  readonly modes: { readonly network: NamespaceMode; readonly ipc: NamespaceMode; readonly pid: NamespaceMode };
  /** Of this agent, and so of the CRIU that it starts. */
  readonly capabilities: bigint;
  /** Of the node's own processes, to compare. */
  readonly nodeNamespaces: Readonly<Record<NamespaceKind, string>>;
  /** Of the sandbox's first process. */
  readonly pausePid: number;
  readonly volumes: readonly Volume[];
  readonly mounts: readonly Mount[];
  readonly processes: readonly ProcessFacts[];
  readonly descriptors: readonly Descriptor[];
  /** Of its network namespace, whoever holds them. */
  readonly rows: readonly SocketRow[];
  /** Those that are in no table, or in TCP's. */
  readonly named: readonly NamedSocket[];
  readonly unixPeers: ReadonlyMap<number, UnixPeer>;
  /** Of the whole node. */
  readonly locks: readonly Lock[];
  readonly areas: readonly Area[];
  readonly filesBytes: number | undefined;
  /** At the end of the window, of what may be a moment only. */
  readonly later: Later;
}

export interface Volume {
  readonly kind: VolumeKind;
  readonly hostPath: string;
  readonly containerPath: string;
  readonly readOnly: boolean;
}

export interface Later {
  /** Threads in state D then, too. */
  readonly uninterruptible: readonly number[];
  readonly rows: readonly SocketRow[];
}

/** Reads all of it but {@link Later}. Errors: NOT_RUNNING, when it has ended meanwhile. */
export async function factsOf(
  node: Pick<Node, 'config'>,
  container: ContainerDetail,
  signal: AbortSignal,
): Promise<Omit<ContainerFacts, 'later'>> {
  const { id, name, pid, config, sandbox } = container;
  const options = config.linux?.securityContext?.namespaceOptions;
  const pids = await pidsOf(container);
  // Also those that Gantry has made for a pod that it has restored.
  const emptyDirs = new Set(
    volumesOf(config).flatMap(({ name: volume, hostPath }) => (volume === '' ? [] : [hostPath])),
  );
  const mounts = await mountsOf(pid);
  const [processes, descriptors, areas, rows, peers, locks, own, filesBytes, runtime] = await Promise.all([
    Promise.all(pids.map(processFacts)).then((all) => all.filter((one) => one !== undefined)),
    Promise.all(pids.map((one) => descriptorsOf(one, mounts))).then((all) => all.flat()),
    Promise.all(pids.map(areasOf)).then((all) => all.flat()),
    socketRows(pid),
    // Without ss the other end of a unix socket cannot be told.
    unixPeers(pid, signal).catch(() => new Map<number, UnixPeer>()),
    allLocks(),
    processFacts(process.pid),
    layerBytes(node, container, signal),
    findRuntime(id),
  ]);
  signal.throwIfAborted();
  if (processes.length === 0 || own === undefined) throw ended(name);
  const tables = new Map(rows.map(({ inode, table }) => [inode, table]));
  const tableOf = ({ link }: Descriptor) => tables.get(socketInode(link) ?? 0);
  const unsure = descriptors.filter(
    (one) => socketInode(one.link) !== undefined && /^(tcp6?)?$/.test(tableOf(one) ?? ''),
  );
  const named = await nameSockets(unsure, signal);
  return {
    id,
    name,
    init: pid,
    runtimeHandler: sandbox.runtimeHandler,
    runtime,
    hasTerminal: config.tty,
    devices: config.devices.map(({ hostPath }) => hostPath),
    modes: {
      network: options?.network ?? NamespaceMode.POD,
      ipc: options?.ipc ?? NamespaceMode.POD,
      pid: options?.pid ?? NamespaceMode.POD,
    },
    capabilities: own.capabilities,
    nodeNamespaces: own.namespaces,
    pausePid: sandbox.pid,
    volumes: config.mounts.map(({ hostPath, containerPath, readonly }) => ({
      kind: emptyDirs.has(hostPath) ? 'empty-dir' : volumeKind(hostPath),
      hostPath,
      containerPath,
      readOnly: readonly,
    })),
    mounts,
    processes,
    descriptors,
    rows,
    // Without a name, one that TCP lists is one of TCP.
    named: named.filter(({ protocol }, at) => protocol !== '' || tableOf(unsure[at] as Descriptor) === undefined),
    unixPeers: peers,
    locks,
    areas,
    filesBytes,
  };
}

/** Looks once more at what may have been a moment only. */
export async function lookAgain({ processes, init }: Pick<ContainerFacts, 'processes' | 'init'>): Promise<Later> {
  const suspects = processes.filter(({ uninterruptible }) => uninterruptible.length > 0);
  const [again, rows] = await Promise.all([
    Promise.all(suspects.map(({ pid }) => uninterruptibleOf(pid))),
    socketRows(init),
  ]);
  return { uninterruptible: again.flat(), rows };
}

/** Pure: the inode of a link such as socket:[123]. */
export function socketInode(link: string): number | undefined {
  const [, inode] = /^socket:\[(\d+)\]$/.exec(link) ?? [];
  return inode === undefined ? undefined : Number(inode);
}

async function pidsOf({ pid, name }: ContainerDetail): Promise<number[]> {
  try {
    const pids = await processesOf(await freezerOf(pid));
    // On cgroup v1 the group does not list those that have ended and are not waited for.
    const children = (await Promise.all(pids.map(childrenOf))).flat();
    return [...new Set([...pids, ...children])];
  } catch (error) {
    if (error instanceof GantryError) throw error;
    throw ended(name);
  }
}

/** Undefined when that cannot be told in time. */
async function layerBytes(
  { config }: Pick<Node, 'config'>,
  { snapshotter, snapshotKey }: ContainerDetail,
  signal: AbortSignal,
): Promise<number | undefined> {
  try {
    const layer = await writableLayer(config.runtimeSocket, snapshotter, snapshotKey);
    return Number((await run('du', ['-sxB1', layer], { signal, timeoutMs: FILES_LIMIT_MS })).split(/\s/)[0]);
  } catch {
    return undefined;
  }
}

function ended(name: string): GantryError {
  return new GantryError('NOT_RUNNING', `container ${name} has just ended`);
}
