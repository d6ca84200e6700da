import type { FdinfoEntry, FileEntry } from '../gen/criu.ts';
import { badImage } from './cursor.ts';
import type { FileTable } from './file-table.ts';
import type { ImageSet } from './image-set.ts';
import { fileOf } from './kinds.ts';

export type OpenFileKind =
  | 'file'
  | 'pipe'
  | 'fifo'
  | 'socket'
  | 'eventfd'
  | 'epoll'
  | 'inotify'
  | 'fanotify'
  | 'signalfd'
  | 'timerfd'
  | 'tty'
  | 'namespace'
  | 'tun'
  | 'external'
  | 'memfd'
  | 'bpfmap'
  | 'pidfd'
  | 'other';

export interface OpenFile {
  readonly fd: number;
  /** CRIU's number: descriptors that share an open file have the same one, sockets are found by it. */
  readonly id: number;
  readonly kind: OpenFileKind;
  /** In the mount namespace of the process; of a file, a FIFO, a terminal; "memfd:NAME" of a memfd. */
  readonly path?: string;
  /** Of a pipe or FIFO: its number; both ends have the same. */
  readonly pipe?: number;
  /** "O_RDWR", "O_NONBLOCK" …, without those whose number differs between architectures. */
  readonly flags: readonly string[];
  readonly closeOnExec: boolean;
  /** Of a file or memfd, in bytes. */
  readonly offset?: bigint;
  /** Of a file, when it was dumped, in bytes. */
  readonly size?: bigint;
}

const KIND: { readonly [T in FileEntry['type']]: OpenFileKind } = {
  REG: 'file',
  PIPE: 'pipe',
  FIFO: 'fifo',
  INETSK: 'socket',
  UNIXSK: 'socket',
  PACKETSK: 'socket',
  NETLINKSK: 'socket',
  EVENTFD: 'eventfd',
  EVENTPOLL: 'epoll',
  INOTIFY: 'inotify',
  FANOTIFY: 'fanotify',
  SIGNALFD: 'signalfd',
  TIMERFD: 'timerfd',
  TTY: 'tty',
  CTL_TTY: 'tty',
  NS: 'namespace',
  TUNF: 'tun',
  EXT: 'external',
  MEMFD: 'memfd',
  BPFMAP: 'bpfmap',
  PIDFD: 'pidfd',
  AUTOFS_PIPE: 'pipe',
  UND: 'other',
};

/** Of Linux's asm-generic/fcntl.h; two bits of the access mode come before them. */
const FLAGS = [
  [0o2000, 'O_APPEND'],
  [0o4000, 'O_NONBLOCK'],
  [0o10000, 'O_DSYNC'],
  [0o20000, 'O_ASYNC'],
  [0o1000000, 'O_NOATIME'],
  [0o10000000, 'O_PATH'],
] as const;
const ACCESS = ['O_RDONLY', 'O_WRONLY', 'O_RDWR'];
const FD_CLOEXEC = 1;

/** Descriptors by CRIU's number of a table of files, which processes may share: read once for each. */
export class DescriptorTables {
  readonly #images: ImageSet;
  readonly #files: FileTable;
  readonly #known = new Map<number, readonly OpenFile[]>();

  constructor(images: ImageSet, files: FileTable) {
    this.#images = images;
    this.#files = files;
  }

  /** In the order of the descriptors. Errors: BAD_ARCHIVE, also for a file that is not in the images. */
  async read(id: number): Promise<readonly OpenFile[]> {
    const known = this.#known.get(id);
    if (known !== undefined) return known;
    const entries = await this.#images.entries('FDINFO', id);
    const found = entries.map((entry) => this.#openFile(entry, id)).sort((one, other) => one.fd - other.fd);
    this.#known.set(id, found);
    return found;
  }

  #openFile({ fd, id, type, flags }: FdinfoEntry, table: number): OpenFile {
    const file = this.#files.find(id);
    if (file === undefined) throw badImage(fileOf('FDINFO', table), `descriptor ${fd} is file ${id}, which is missing`);
    const path = this.#files.pathOf(id);
    const pipe = file.pipe?.pipe_id ?? file.fifo?.pipe_id;
    const offset = file.reg?.pos ?? file.memfd?.pos;
    const size = file.reg?.size;
    return {
      fd,
      id,
      kind: KIND[type],
      ...(path === undefined ? {} : { path }),
      ...(pipe === undefined ? {} : { pipe }),
      flags: namesOf(flagsOf(file, this.#files)),
      closeOnExec: (flags & FD_CLOEXEC) !== 0,
      ...(offset === undefined ? {} : { offset }),
      ...(size === undefined ? {} : { size }),
    };
  }
}

function flagsOf(file: FileEntry, files: FileTable): number {
  const { reg, isk, nsf, psk, nlsk, efd, epfd, sgfd, tfd, ify, ffy, usk, fifo, pipe, tty, memfd, bpf, pidfd } = file;
  const one = reg ?? isk ?? nsf ?? psk ?? nlsk ?? efd ?? epfd ?? sgfd ?? tfd ?? ify ?? ffy ?? pipe ?? tty ?? memfd;
  const under = fifo?.regf_id === undefined ? undefined : files.find(fifo.regf_id)?.reg;
  return (one ?? bpf ?? pidfd ?? usk ?? under)?.flags ?? 0;
}

function namesOf(flags: number): string[] {
  return [ACCESS[flags & 3] ?? '', ...FLAGS.filter(([bit]) => flags & bit).map(([, name]) => name)].filter(Boolean);
}
