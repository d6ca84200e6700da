import { encodeImage } from './encode.ts';
import { core, FOWN, mm, PAGE, SOCKET_OPTIONS, thread } from './images.fixture.ts';

const ARGUMENTS = 'server\0--port\x006379\0';
const ENVIRONMENT = 'HOME=/data\0EMPTY=\0';

/** A server with two threads and a child that has ended; see the tests for what is in it. */
export function smallCheckpoint(): Record<string, Buffer> {
  const pages = Buffer.alloc(3 * PAGE, 'x');
  // The third page, whose address is 0x7000.
  pages.write(ARGUMENTS, 2 * PAGE);
  pages.write(ENVIRONMENT, 2 * PAGE + 0x800);
  const areas = [
    { start: 0x1000n, end: 0x3000n, status: 1 | (1 << 6), shmid: 1n, prot: 5, flags: 2 },
    { start: 0x3000n, end: 0x5000n, status: 1 | (1 << 5) | (1 << 9) },
    { start: 0x5000n, end: 0x6000n, status: 1 | (1 << 8), shmid: 77n, flags: 0x21 },
    { start: 0x7000n, end: 0x8000n, status: 1 | (1 << 9) },
  ];
  const text = {
    mm_arg_end: 0x7000n + BigInt(ARGUMENTS.length),
    mm_env_end: 0x7800n + BigInt(ENVIRONMENT.length),
    mm_saved_auxv: [6n, 4096n, 0n, 0n],
  };
  const unlimited = 0xffff_ffff_ffff_ffffn;
  const rlimits = {
    rlimits: [
      { cur: unlimited, max: unlimited },
      { cur: 5n, max: 6n },
    ],
  };
  return {
    'inventory.img': encodeImage('INVENTORY', [
      {
        img_version: 2,
        root_ids: { vm_id: 0, files_id: 0, fs_id: 0, sighand_id: 0, uts_ns_id: 3, net_ns_id: 2 },
        lsmtype: 'APPARMOR',
        dump_uptime: 12_345n,
        network_lock_method: 1,
        dump_criu_run_id: 'run',
      },
    ]),
    'pstree.img': encodeImage('PSTREE', [
      { pid: 1, ppid: 0, pgid: 1, sid: 1, threads: [1, 5] },
      { pid: 7, ppid: 1, pgid: 1, sid: 1, threads: [7] },
    ]),
    'core-1.img': core('server', {}, { rlimits, oom_score_adj: -5 }),
    'core-5.img': thread('worker'),
    'core-7.img': core('ended', { ids: undefined }, { task_state: 6, exit_code: 256 }),
    'fs-1.img': encodeImage('FS', [{ cwd_id: 2, root_id: 2 }]),
    'mm-1.img': mm(areas, text),
    'pagemap-1.img': encodeImage(
      'PAGEMAP',
      [
        { vaddr: 0x2000n, compat_nr_pages: 2, nr_pages: 2n, flags: 4 },
        { vaddr: 0x4000n, compat_nr_pages: 1, flags: 1 },
        { vaddr: 0x7000n, compat_nr_pages: 1, flags: 6 },
      ],
      { head: { pages_id: 1 } },
    ),
    'pages-1.img': pages,
    'pagemap-shmem-77.img': encodeImage('SHMEM_PAGEMAP', [{ vaddr: 0n, compat_nr_pages: 1, flags: 4 }], {
      head: { pages_id: 2 },
    }),
    'pages-2.img': Buffer.alloc(PAGE),
    'fdinfo-1.img': encodeImage('FDINFO', [
      { id: 4, flags: 1, type: 'INETSK', fd: 6 },
      { id: 3, flags: 0, type: 'PIPE', fd: 1 },
      { id: 5, flags: 0, type: 'INETSK', fd: 7 },
      { id: 2, flags: 0, type: 'REG', fd: 0 },
    ]),
    'files.img': files(),
    'tcp-stream-1f.img': encodeImage(
      'TCP_STREAM',
      [{ inq_len: 2, inq_seq: 1, outq_len: 3, outq_seq: 1, opt_mask: 0, snd_wscale: 7, mss_clamp: 1460 }],
      { extras: [Buffer.from('inout')] },
    ),
    'mountpoints-11.img': encodeImage('MNTS', [
      { ...MOUNT, fstype: 16, fsname: 'overlay', mnt_id: 1, root: '/', mountpoint: '/', ext_key: '/' },
      { ...MOUNT, fstype: 5, mnt_id: 2, root: '/', mountpoint: '/dev', options: 'size=65536k' },
    ]),
    'cgroup.img': encodeImage('CGROUP', [
      {
        sets: [{ id: 1, ctls: [{ name: '', path: '/pod/container' }] }],
        controllers: [{ cnames: [''], dirs: [{ dir_name: '/pod', children: [{ dir_name: 'container' }] }] }],
      },
    ]),
    'utsns-10.img': encodeImage('UTSNS', [{ nodename: 'redis-0', domainname: '(none)' }]),
    'stats-dump': encodeImage('STATS', [
      {
        dump: {
          ...{ freezing_time: 10, frozen_time: 20, memdump_time: 30, memwrite_time: 40 },
          ...{ pages_scanned: 100n, pages_skipped_parent: 1n, pages_written: 3n, pages_lazy: 0n },
        },
      },
    ]),
  };
}

const MOUNT = { root_dev: 1, parent_mnt_id: 0, flags: 0, source: 'none', options: '' };

function files(): Buffer {
  const regular = { flags: 0o102002, fown: FOWN };
  const socket = { family: 10, type: 1, proto: 6, flags: 0o4002, backlog: 511, fown: FOWN, opts: SOCKET_OPTIONS };
  const client = [0, 0, 0xffff0000, 0x0100_000a];
  return encodeImage('FILES', [
    { type: 'REG', id: 1, reg: { ...regular, id: 1, pos: 0n, name: '/usr/bin/server', size: 9000n } },
    { type: 'REG', id: 2, reg: { ...regular, id: 2, pos: 17n, name: '/data' } },
    { type: 'PIPE', id: 3, pipe: { id: 3, pipe_id: 42, flags: 1, fown: FOWN } },
    {
      type: 'INETSK',
      id: 4,
      isk: {
        ...socket,
        id: 4,
        ino: 0x1e,
        state: 10,
        src_port: 6379,
        dst_port: 0,
        src_addr: [0, 0, 0, 0],
        dst_addr: [0, 0, 0, 0],
      },
    },
    {
      type: 'INETSK',
      id: 5,
      isk: {
        ...socket,
        id: 5,
        ino: 0x1f,
        state: 1,
        src_port: 6379,
        dst_port: 40000,
        src_addr: client,
        dst_addr: client,
      },
    },
    {
      type: 'UNIXSK',
      id: 6,
      usk: {
        ...{ id: 6, ino: 50, type: 1, state: 10, flags: 2, uflags: 0, backlog: 5, peer: 0, fown: FOWN },
        opts: SOCKET_OPTIONS,
        name: Buffer.from('/run/server.sock\0'),
      },
    },
  ]);
}
