import { NamespaceMode } from '../../gen/cri.ts';
import type { ContainerFacts } from '../facts.ts';
import type { Descriptor, FileFacts } from '../proc/descriptors.ts';
import type { NodeFacts } from '../proc/node.ts';
import type { ProcessFacts } from '../proc/processes.ts';
import type { SocketRow } from '../proc/sockets.ts';

/*
 * Facts with nothing in them to complain about, for tests that add what they are about.
 */

const namespaces = {
  cgroup: 'c:[1]',
  ipc: 'i:[1]',
  mnt: 'm:[1]',
  net: 'n:[1]',
  pid: 'p:[1]',
  time: 't:[1]',
  user: 'u:[1]',
  uts: 's:[1]',
};

export function processOf(fields: Partial<ProcessFacts> = {}): ProcessFacts {
  const own = { ...namespaces, ipc: 'i:[2]', net: 'n:[2]', pid: 'p:[2]' };
  return {
    pid: 100,
    parent: 90,
    command: 'app',
    state: 'S',
    tracer: 0,
    uninterruptible: [],
    threads: 1,
    ids: [0, 0, 0, 0, 0, 0, 0, 0],
    capabilities: 0n,
    label: '',
    namespaces: own,
    ...fields,
  };
}

export function fileOf(fields: Partial<FileFacts> = {}): FileFacts {
  return { kind: 'file', inode: 1, on: '8:1', device: '', links: 1, bytes: 0, mountId: 1, locks: [], ...fields };
}

export function descriptorOf(link: string, fields: Partial<Descriptor> = {}): Descriptor {
  return { pid: 100, fd: '3', link, ...fields };
}

export function rowOf(table: string, inode: number, fields: Partial<SocketRow> = {}): SocketRow {
  return { table, inode, local: '', remote: '', state: '', queued: 0, unacknowledged: 0, ...fields };
}

export function factsWith(fields: Partial<ContainerFacts> = {}): ContainerFacts {
  return {
    id: 'abc',
    name: 'main',
    init: 100,
    runtimeHandler: '',
    runtime: 'runc',
    hasTerminal: false,
    devices: [],
    modes: { network: NamespaceMode.POD, ipc: NamespaceMode.POD, pid: NamespaceMode.CONTAINER },
    capabilities: 0n,
    nodeNamespaces: namespaces,
    pausePid: 80,
    volumes: [],
    mounts: [],
    processes: [processOf()],
    descriptors: [],
    rows: [],
    named: [],
    unixPeers: new Map(),
    locks: [],
    areas: [],
    filesBytes: 0,
    later: { uninterruptible: [], rows: [] },
    ...fields,
  };
}

export function nodeWith(fields: Partial<NodeFacts> = {}): NodeFacts {
  return {
    node: 'a',
    kernel: '6.12.1',
    architecture: 'x64',
    criu: '4.2.1',
    cpuFlags: ['fpu', 'lm', 'sse2', 'avx2', 'nx'],
    lsm: [],
    hasCheckpointRestore: true,
    hasUserfaultfd: true,
    hasSoftDirty: true,
    criuConfiguration: {},
    freeBytes: 1e12,
    missingImages: [],
    ...fields,
  };
}
