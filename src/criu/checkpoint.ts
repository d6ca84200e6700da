import type { CoreEntry, InventoryEntry, TaskKobjIdsEntry } from '../gen/criu.ts';
import { type Cgroups, readCgroups } from './cgroups.ts';
import { badImage } from './cursor.ts';
import { FileTable } from './file-table.ts';
import { ImageSet } from './image-set.ts';
import { fileOf } from './kinds.ts';
import { type Mount, readMounts } from './mounts.ts';
import { type Namespace, readNamespaces } from './namespaces.ts';
import { DescriptorTables } from './open-files.ts';
import { type Process, readProcess } from './process.ts';
import { checkNumbers, treeOf } from './process-tree.ts';
import { readSharedMemory, type SharedMemory } from './shared-memory.ts';
import { readSockets, type Socket } from './sockets.ts';
import type { ImageSource } from './source.ts';
import { readStatistics, type Statistics } from './statistics.ts';

/** All that a checkpoint's images tell, as plain data: addresses and 64-bit counters are bigint. */
export interface CheckpointImages {
  /** "X86_64", "AARCH64" …: of which the registers are. */
  readonly architecture: CoreEntry['mtype'];
  readonly criu: {
    /** 1: images without a common magic number; 2: every one since CRIU 1.6. */
    readonly imageVersion: number;
    readonly lsm: 'none' | 'selinux' | 'apparmor';
    /** How connections were kept from being reset; "unknown" when CRIU did not say. */
    readonly networkLock: 'iptables' | 'nftables' | 'skip' | 'unknown';
    /** Connections were not dumped (--tcp-close). */
    readonly tcpClosed: boolean;
    /** Uptime of the machine at the dump, in microseconds. */
    readonly dumpUptimeUs?: bigint;
    /** Of the dump; CRIU names its nftables rules after it. */
    readonly runId?: string;
    readonly plugins: readonly string[];
  };
  /** The roots of the tree. */
  readonly processes: readonly Process[];
  readonly sharedMemory: readonly SharedMemory[];
  /** Bytes of memory in this checkpoint, private and shared: the size of its pages images together. */
  readonly memoryBytes: number;
  readonly sockets: readonly Socket[];
  readonly mounts: readonly Mount[];
  readonly cgroups: Cgroups;
  readonly namespaces: readonly Namespace[];
  readonly statistics: Statistics;
}

/**
 * Reads what CRIU has dumped. The memory itself is not read; `readArguments`, `readEnvironment` and `readMemory` do it
 * for a process of the result.
 *
 * Errors: BAD_ARCHIVE, when an image is damaged or missing, with its name and what is wrong; those of the source.
 */
export async function readImages(source: ImageSource): Promise<CheckpointImages> {
  const images = await ImageSet.open(source);
  const inventory = await images.required('INVENTORY');
  const tree = await images.entries('PSTREE');
  if (tree.length === 0) throw badImage(fileOf('PSTREE'), images.has('PSTREE') ? 'it has no process' : 'it is missing');
  checkNumbers(tree);
  const files = await FileTable.read(images);
  const tables = new DescriptorTables(images, files);
  const processes: Omit<Process, 'children'>[] = [];
  const ids: TaskKobjIdsEntry[] = [];
  let architecture: CoreEntry['mtype'] = 'UNKNOWN';
  for (const entry of tree) {
    const core = await images.required('CORE', entry.pid);
    architecture = core.mtype;
    const own = core.ids ?? (await images.entry('IDS', entry.pid));
    if (own !== undefined) ids.push(own);
    processes.push(await readProcess(images, entry, core, files, tables));
  }
  const sharedMemory = await readSharedMemory(images, pageSizeOf(processes));
  const segments = [...processes.map(({ memory }) => memory?.bytes ?? 0), ...sharedMemory.map(({ bytes }) => bytes)];
  return {
    architecture,
    criu: factsOf(inventory),
    processes: treeOf(processes),
    sharedMemory,
    memoryBytes: segments.reduce((sum, bytes) => sum + bytes, 0),
    sockets: await readSockets(images, files),
    mounts: await readMounts(images),
    cgroups: await readCgroups(images),
    namespaces: await readNamespaces(images, ids, inventory.root_ids),
    statistics: await readStatistics(images),
  };
}

/** All processes of a machine have the same; of a zombie it is not known. */
function pageSizeOf(processes: readonly Omit<Process, 'children'>[]): number {
  return processes.find(({ memory }) => memory !== undefined)?.memory?.pageSize ?? 4096;
}

/** Of enum NETWORK_LOCK_METHOD in CRIU's criu/include/cr_options.h. */
const NETWORK_LOCKS = ['iptables', 'nftables', 'skip'] as const;
const LSM = { NO_LSM: 'none', SELINUX: 'selinux', APPARMOR: 'apparmor' } as const;

function factsOf(inventory: InventoryEntry): CheckpointImages['criu'] {
  const { img_version, lsmtype, network_lock_method, tcp_close, dump_uptime, dump_criu_run_id } = inventory;
  return {
    imageVersion: img_version,
    lsm: LSM[lsmtype ?? 'NO_LSM'],
    networkLock: NETWORK_LOCKS[network_lock_method ?? -1] ?? 'unknown',
    tcpClosed: tcp_close === true,
    ...(dump_uptime === undefined ? {} : { dumpUptimeUs: dump_uptime }),
    ...(dump_criu_run_id === undefined ? {} : { runId: dump_criu_run_id }),
    plugins: inventory.plugins_entry?.plugins ?? [],
  };
}
