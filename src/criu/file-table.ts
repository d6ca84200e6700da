import type { FileEntry } from '../gen/criu.ts';
import type { ImageSet } from './image-set.ts';
import type { EntryOf, Kind } from './kinds.ts';

/** Every file that some process of a checkpoint has open, maps or stands in, by CRIU's number for it. */
export class FileTable {
  readonly entries: readonly FileEntry[];
  readonly #byId: ReadonlyMap<number, FileEntry>;
  readonly #memfds: ReadonlyMap<bigint, EntryOf<'MEMFD_INODE'>>;

  private constructor(entries: readonly FileEntry[], memfds: readonly EntryOf<'MEMFD_INODE'>[]) {
    this.entries = entries;
    this.#byId = new Map(entries.map((entry) => [entry.id, entry]));
    this.#memfds = new Map(memfds.map((memfd) => [memfd.inode_id, memfd]));
  }

  static async read(images: ImageSet): Promise<FileTable> {
    const files = await images.entries('FILES');
    const entries = images.has('FILES') ? files : await readOld(images);
    return new FileTable(entries, await images.entries('MEMFD_INODE'));
  }

  find(id: number): FileEntry | undefined {
    return this.#byId.get(id);
  }

  /** Where a file is in the mount namespace of the process; of a memfd its name. undefined for what has no path. */
  pathOf(id: number): string | undefined {
    const entry = this.#byId.get(id);
    if (entry === undefined) return undefined;
    const { reg, fifo, tty, memfd } = entry;
    if (reg !== undefined) return reg.name;
    if (memfd !== undefined) return `memfd:${this.#memfds.get(BigInt(memfd.inode_id))?.name ?? ''}`;
    // These stand on a regular file's entry.
    const under = fifo?.regf_id ?? tty?.regf_id;
    return under === undefined ? undefined : this.#byId.get(under)?.reg?.name;
  }
}

/** CRIU before 3.4 has an image for every type instead of files.img. */
const OLD = [
  ['REG_FILES', 'REG', 'reg'],
  ['INETSK', 'INETSK', 'isk'],
  ['NS_FILES', 'NS', 'nsf'],
  ['PACKETSK', 'PACKETSK', 'psk'],
  ['NETLINK_SK', 'NETLINKSK', 'nlsk'],
  ['EVENTFD_FILE', 'EVENTFD', 'efd'],
  ['EVENTPOLL_FILE', 'EVENTPOLL', 'epfd'],
  ['SIGNALFD', 'SIGNALFD', 'sgfd'],
  ['TUNFILE', 'TUNF', 'tunf'],
  ['TIMERFD', 'TIMERFD', 'tfd'],
  ['INOTIFY_FILE', 'INOTIFY', 'ify'],
  ['FANOTIFY_FILE', 'FANOTIFY', 'ffy'],
  ['EXT_FILES', 'EXT', 'ext'],
  ['UNIXSK', 'UNIXSK', 'usk'],
  ['FIFO', 'FIFO', 'fifo'],
  ['PIPES', 'PIPE', 'pipe'],
  ['TTY_FILES', 'TTY', 'tty'],
] as const satisfies readonly (readonly [Kind, FileEntry['type'], keyof FileEntry])[];

async function readOld(images: ImageSet): Promise<FileEntry[]> {
  const found: FileEntry[] = [];
  for (const [kind, type, field] of OLD) {
    for (const entry of await images.entries(kind)) {
      found.push({ type, id: entry.id, [field]: entry });
    }
  }
  return found;
}
