import type { Messages } from '../gen/criu.ts';

/** The first word of every image since version 1.1, other than the inventory. */
export const COMMON_MAGIC = 0x54564319;
/** The same for what CRIU writes for itself. */
export const SERVICE_MAGIC = 0x55105940;

interface Description {
  /** CRIU's pattern of its file names: %u and %x stand for a number, %s for a word. */
  readonly file: string;
  readonly magic: number;
  /** Of every entry; see `head`. */
  readonly message: keyof Messages;
  /** Of the first entry, where that is another one. */
  readonly head?: keyof Messages;
  /** CRIU writes and reads one entry only. */
  readonly one?: true;
  readonly service?: true;
}

/**
 * Images that consist of messages, by CRIU's name for them. What each is called is told in CRIU's criu/image-desc.c,
 * its magic number in criu/include/magic.h, its message in pycriu's images.py. Others (pages, archives of tmpfs, what
 * `ip` and `iptables` have said) are raw bytes.
 */
export const KINDS = {
  INVENTORY: { file: 'inventory.img', magic: 0x58313116, message: 'inventory_entry', one: true },
  PSTREE: { file: 'pstree.img', magic: 0x50273030, message: 'pstree_entry' },
  FDINFO: { file: 'fdinfo-%u.img', magic: 0x56213732, message: 'fdinfo_entry' },
  PAGEMAP: { file: 'pagemap-%u.img', magic: 0x56084025, message: 'pagemap_entry', head: 'pagemap_head' },
  SHMEM_PAGEMAP: { file: 'pagemap-shmem-%u.img', magic: 0x56084025, message: 'pagemap_entry', head: 'pagemap_head' },
  CORE: { file: 'core-%u.img', magic: 0x55053847, message: 'core_entry', one: true },
  IDS: { file: 'ids-%u.img', magic: 0x54432030, message: 'task_kobj_ids_entry', one: true },
  VMAS: { file: 'vmas-%u.img', magic: 0x54123737, message: 'vma_entry' },
  PIPES: { file: 'pipes.img', magic: 0x56513555, message: 'pipe_entry' },
  PIPES_DATA: { file: 'pipes-data.img', magic: 0x56453709, message: 'pipe_data_entry' },
  FIFO: { file: 'fifo.img', magic: 0x58364939, message: 'fifo_entry' },
  FIFO_DATA: { file: 'fifo-data.img', magic: 0x59333054, message: 'pipe_data_entry' },
  SIGACT: { file: 'sigacts-%u.img', magic: 0x55344201, message: 'sa_entry' },
  UNIXSK: { file: 'unixsk.img', magic: 0x54373943, message: 'unix_sk_entry' },
  INETSK: { file: 'inetsk.img', magic: 0x56443851, message: 'inet_sk_entry' },
  PACKETSK: { file: 'packetsk.img', magic: 0x60454618, message: 'packet_sock_entry' },
  ITIMERS: { file: 'itimers-%u.img', magic: 0x57464056, message: 'itimer_entry' },
  POSIX_TIMERS: { file: 'posix-timers-%u.img', magic: 0x52603957, message: 'posix_timer_entry' },
  SK_QUEUES: { file: 'sk-queues.img', magic: 0x56264026, message: 'sk_packet_entry' },
  UTSNS: { file: 'utsns-%u.img', magic: 0x54473203, message: 'utsns_entry', one: true },
  CREDS: { file: 'creds-%u.img', magic: 0x54023547, message: 'creds_entry', one: true },
  IPC_VAR: { file: 'ipcns-var-%u.img', magic: 0x53115007, message: 'ipc_var_entry', one: true },
  IPCNS_SHM: { file: 'ipcns-shm-%u.img', magic: 0x46283044, message: 'ipc_shm_entry' },
  IPCNS_MSG: { file: 'ipcns-msg-%u.img', magic: 0x55453737, message: 'ipc_msg_entry' },
  IPCNS_SEM: { file: 'ipcns-sem-%u.img', magic: 0x59573019, message: 'ipc_sem_entry' },
  REG_FILES: { file: 'reg-files.img', magic: 0x50363636, message: 'reg_file_entry' },
  EXT_FILES: { file: 'ext-files.img', magic: 0x59255641, message: 'ext_file_entry' },
  FS: { file: 'fs-%u.img', magic: 0x51403912, message: 'fs_entry', one: true },
  MM: { file: 'mm-%u.img', magic: 0x57492820, message: 'mm_entry', one: true },
  REMAP_FPATH: { file: 'remap-fpath.img', magic: 0x59133954, message: 'remap_file_path_entry' },
  GHOST_FILE: { file: 'ghost-file-%x.img', magic: 0x52583605, message: 'ghost_chunk_entry', head: 'ghost_file_entry' },
  TCP_STREAM: { file: 'tcp-stream-%x.img', magic: 0x51465506, message: 'tcp_stream_entry', one: true },
  EVENTFD_FILE: { file: 'eventfd.img', magic: 0x44523722, message: 'eventfd_file_entry' },
  EVENTPOLL_FILE: { file: 'eventpoll.img', magic: 0x45023858, message: 'eventpoll_file_entry' },
  EVENTPOLL_TFD: { file: 'eventpoll-tfd.img', magic: 0x44433746, message: 'eventpoll_tfd_entry' },
  SIGNALFD: { file: 'signalfd.img', magic: 0x57323820, message: 'signalfd_entry' },
  INOTIFY_FILE: { file: 'inotify.img', magic: 0x48424431, message: 'inotify_file_entry' },
  INOTIFY_WD: { file: 'inotify-wd.img', magic: 0x54562009, message: 'inotify_wd_entry' },
  MNTS: { file: 'mountpoints-%u.img', magic: 0x55563928, message: 'mnt_entry' },
  NETDEV: { file: 'netdev-%u.img', magic: 0x57373951, message: 'net_device_entry' },
  NETNS: { file: 'netns-%u.img', magic: 0x55933752, message: 'netns_entry', one: true },
  TTY_FILES: { file: 'tty.img', magic: 0x59433025, message: 'tty_file_entry' },
  TTY_INFO: { file: 'tty-info.img', magic: 0x59453036, message: 'tty_info_entry' },
  TTY_DATA: { file: 'tty-data.img', magic: 0x59413026, message: 'tty_data_entry' },
  FILE_LOCKS: { file: 'filelocks.img', magic: 0x54323616, message: 'file_lock_entry' },
  RLIMIT: { file: 'rlimit-%u.img', magic: 0x57113925, message: 'rlimit_entry' },
  FANOTIFY_FILE: { file: 'fanotify.img', magic: 0x55096122, message: 'fanotify_file_entry' },
  FANOTIFY_MARK: { file: 'fanotify-mark.img', magic: 0x56506035, message: 'fanotify_mark_entry' },
  SIGNAL: { file: 'signal-s-%u.img', magic: 0x59255647, message: 'siginfo_entry' },
  PSIGNAL: { file: 'signal-p-%u.img', magic: 0x59255647, message: 'siginfo_entry' },
  NETLINK_SK: { file: 'netlinksk.img', magic: 0x58005614, message: 'netlink_sk_entry' },
  NS_FILES: { file: 'ns-files.img', magic: 0x61394011, message: 'ns_file_entry' },
  TUNFILE: { file: 'tunfile.img', magic: 0x57143751, message: 'tunfile_entry' },
  CGROUP: { file: 'cgroup.img', magic: 0x59383330, message: 'cgroup_entry', one: true },
  TIMERFD: { file: 'timerfd.img', magic: 0x50493712, message: 'timerfd_entry' },
  CPUINFO: { file: 'cpuinfo.img', magic: 0x61404013, message: 'cpuinfo_entry', one: true },
  USERNS: { file: 'userns-%u.img', magic: 0x55474906, message: 'userns_entry', one: true },
  SECCOMP: { file: 'seccomp.img', magic: 0x64413049, message: 'seccomp_entry', one: true },
  BINFMT_MISC: { file: 'binfmt-misc.img', magic: 0x67343323, message: 'binfmt_misc_entry' },
  AUTOFS: { file: 'autofs-%u.img', magic: 0x49353943, message: 'autofs_entry' },
  FILES: { file: 'files.img', magic: 0x56303138, message: 'file_entry' },
  MEMFD_INODE: { file: 'memfd.img', magic: 0x48453499, message: 'memfd_inode_entry' },
  TIMENS: { file: 'timens-%u.img', magic: 0x43114433, message: 'timens_entry', one: true },
  PIDNS: { file: 'pidns-%u.img', magic: 0x61157326, message: 'pidns_entry', one: true },
  BPFMAP_FILE: { file: 'bpfmap-file.img', magic: 0x57506142, message: 'bpfmap_file_entry' },
  BPFMAP_DATA: { file: 'bpfmap-data.img', magic: 0x64324033, message: 'bpfmap_data_entry' },
  APPARMOR: { file: 'apparmor.img', magic: 0x59423047, message: 'apparmor_entry', one: true },
  PIDFD: { file: 'pidfd.img', magic: 0x54435556, message: 'pidfd_entry' },
  STATS: { file: 'stats-%s', magic: 0x57093306, message: 'stats_entry', one: true, service: true },
  IRMAP_CACHE: { file: 'irmap-cache', magic: 0x57004059, message: 'irmap_cache_entry', service: true },
} as const satisfies Record<string, Description>;

export type Kind = keyof typeof KINDS;

/** What an entry of an image is, as CRIU's definition names its fields; 64-bit numbers are bigint, enums names. */
export type EntryOf<K extends Kind> = Messages[(typeof KINDS)[K]['message']];

/** What the first entry of an image is where it differs from the others; undefined where it does not. */
export type HeadOf<K extends Kind> = (typeof KINDS)[K] extends { head: infer H extends keyof Messages }
  ? Messages[H]
  : undefined;

export const describe = (kind: Kind): Description => KINDS[kind];

/** The file of an image: `fileOf('CORE', 7)` is core-7.img. */
export function fileOf(kind: Kind, id: number | bigint | string = ''): string {
  return KINDS[kind].file.replace(/%[usx]/, (pattern) => (pattern === '%x' ? id.toString(16) : String(id)));
}

const PATTERNS = { '%u': '\\d+', '%x': '[0-9a-f]+', '%s': '[a-z]+' } as const;

const matchers = Object.entries(KINDS).map(([kind, { file }]) => ({
  kind: kind as Kind,
  pattern: new RegExp(
    `^${file.replace('.', '\\.').replace(/%[usx]/, (pattern) => `(${PATTERNS[pattern as keyof typeof PATTERNS]})`)}$`,
  ),
}));

/** Which image a file is, and its number or word ("7" of core-7.img); undefined for raw bytes and other files. */
export function kindOf(file: string): { kind: Kind; id: string } | undefined {
  for (const { kind, pattern } of matchers) {
    const match = pattern.exec(file);
    if (match !== null) return { kind, id: match[1] ?? '' };
  }
  return undefined;
}
