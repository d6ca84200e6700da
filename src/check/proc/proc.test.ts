import { expect, test } from 'vitest';
import { deviceName } from './descriptors.ts';
import { estimate } from './dirty.ts';
import { parseIpc } from './ipc.ts';
import { parseLock } from './locks.ts';
import { parseSmaps, sumOf } from './memory.ts';
import { parseMount, volumeKind } from './mounts.ts';
import { parseStat } from './processes.ts';
import { partAt } from './sample.ts';
import { addressOf, parseTable, parseUnixPeers } from './sockets.ts';

test('a command with brackets and spaces is read from stat', () => {
  expect(parseStat('12 (a) b (c) S 7 12 12 0 -1 4194560')).toEqual({ command: 'a) b (c', state: 'S', parent: 7 });
  expect(parseStat('')).toBeUndefined();
});

test('device numbers are told as major and minor', () => {
  expect([deviceName(0x103), deviceName((10 << 8) | 229), deviceName(0x100103 | 0)]).toEqual([
    '1:3',
    '10:229',
    '1:259',
  ]);
});

test('locks and those who wait for them are read', () => {
  expect(parseLock('1: FLOCK  ADVISORY  WRITE 1234 fe:01:77 0 EOF')).toEqual({
    kind: 'FLOCK',
    access: 'WRITE',
    pid: 1234,
    file: 'fe:01:77',
    waits: false,
  });
  expect(parseLock('1: -> POSIX  ADVISORY  READ  9 fe:01:77 0 9')).toMatchObject({
    kind: 'POSIX',
    pid: 9,
    waits: true,
  });
  expect(parseLock('2: OFDLCK ADVISORY  READ  -1 00:2f:5 0 EOF')).toMatchObject({ pid: -1 });
  expect(parseLock('x')).toBeUndefined();
});

test('rows of TCP, netlink and packet sockets are read', () => {
  const tcp =
    '   0: 0100007F:1B5A 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 4711 2 0 100 0 0 10 0';
  expect(parseTable('tcp', [tcp])).toEqual([
    {
      table: 'tcp',
      inode: 4711,
      local: '127.0.0.1:7002',
      remote: '0.0.0.0:0',
      state: 'LISTEN',
      queued: 3,
      unacknowledged: 0,
    },
  ]);
  expect(parseTable('netlink', ['0000 0   123        00000000 3216     0        0 2 0 55'])).toMatchObject([
    { inode: 55, queued: 3216 },
  ]);
  expect(parseTable('packet', ['0000 3    3      0003   0     1       0      0      66'])).toMatchObject([
    { inode: 66 },
  ]);
  expect(parseTable('unix', ['0000: 00000002 00000000 00010000 0001 01 88 /run/with space'])).toMatchObject([
    { inode: 88 },
  ]);
});

test('addresses of IPv6 are told as people write them', () => {
  expect(addressOf('00000000000000000000000001000000:0016')).toBe('[::1]:22');
  expect(addressOf('0000000000000000FFFF00000101A8C0:0050')).toBe('192.168.1.1:80');
  expect(addressOf('B80D0120000000000000000001000000:0050')).toBe('[2001:db8::1]:80');
});

test('peers of unix sockets are read, whose paths may hold spaces', () => {
  const text =
    'u_str ESTAB 0      0      /run/a b.sock 100            * 101\nu_str ESTAB 0 0 * 101 * 100\nu_dgr UNCONN 0 0 * 102 * 0\n';
  const peers = parseUnixPeers(text);
  expect([...peers]).toEqual([
    [100, { inode: 101, path: '/run/a b.sock' }],
    [101, { inode: 100, path: '*' }],
    [102, { inode: 0, path: '*' }],
  ]);
});

test('mounts are read, and volumes told by where kubelet keeps them', () => {
  expect(parseMount('36 35 98:0 /mnt1 /with\\040space rw,noatime master:1 - ext3 /dev/root rw')).toEqual({
    id: 36,
    device: '98:0',
    mountPoint: '/with space',
    fileSystem: 'ext3',
  });
  const pod = '/var/lib/kubelet/pods/3d6f';
  const paths = [
    'volumes/kubernetes.io~configmap/x',
    'volumes/kubernetes.io~projected/kube-api-access',
    'volumes/kubernetes.io~empty-dir/x',
    'volumes/kubernetes.io~csi/x/mount',
    'etc-hosts',
    'containers/main/1a2b',
    'volume-subpaths/x/main/0',
  ];
  expect(paths.map((path) => volumeKind(`${pod}/${path}`))).toEqual([
    'config',
    'config',
    'empty-dir',
    'persistent',
    'kubelet',
    'kubelet',
    'persistent',
  ]);
  expect(volumeKind('/srv/data')).toBe('host-path');
});

test('the tables of System V IPC are read', () => {
  const shm = `       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
      4711          3   600               1048576    10    10      2     0     0     0     0 1 0 1               1048576                     0`;
  const sem = '       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime';
  const msg =
    '       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n 0 1 600 0 0 0 0 0 0 0 0 0 0 0';
  expect(parseIpc([shm, sem, msg].join('\n'))).toEqual({
    segments: [{ id: 3, bytes: 1048576, attached: 2 }],
    semaphores: 0,
    queues: 1,
  });
});

const vma = (head: string, fields: Record<string, number>, flags: string) => [
  head,
  ...Object.entries(fields).map(([name, kib]) => `${name}:  ${kib} kB`),
  `VmFlags: ${flags}`,
];
const SMAPS = [
  ...vma('1000-9000 rw-p 00000000 00:00 0 [heap]', { Rss: 32, Anonymous: 24, Swap: 8 }, 'rd wr mr mw me ac'),
  ...vma('a000-b000 r-xp 00000000 fe:01 12 /bin/app', { Rss: 4, Anonymous: 0 }, 'rd ex mr'),
  ...vma('b000-d000 rw-p 00001000 fe:01 12 /bin/app', { Rss: 8, Anonymous: 4 }, 'rd wr mr'),
  ...vma('e000-f000 rw-s 00000000 00:01 77 /dev/zero (deleted)', { Rss: 4, Anonymous: 0 }, 'rd wr sh'),
  ...vma('f000-10000 rw-s 00000000 00:01 77 /dev/zero (deleted)', { Rss: 4, Anonymous: 0 }, 'rd wr sh'),
  ...vma('10000-12000 rw-p 00000000 00:00 0 ', { Rss: 8, Anonymous: 8, Locked: 8 }, 'rd wr lo ac'),
  ...vma('200000-400000 rw-p 00000000 00:0f 5 /anon_hugepage (deleted)', { Rss: 0, Private_Hugetlb: 2048 }, 'rd wr ht'),
  ...vma('12000-13000 rw-s 00000000 fe:01 99 /data/file', { Rss: 4 }, 'rd wr sh'),
  ...vma('13000-14000 rw-s 00000000 00:06 9 /dev/dri/card0', { Rss: 0 }, 'rd wr sh io pf'),
  ...vma('14000-15000 rw-p 00000000 00:00 0 ', { Rss: 4, Anonymous: 4 }, 'rd wr um ac'),
  ...vma('7ff000-800000 r-xp 00000000 00:00 0 [vdso]', { Rss: 4, Anonymous: 0 }, 'rd ex'),
];

test('mappings are told apart by what CRIU does with them', () => {
  const areas = parseSmaps(1, SMAPS);
  expect(areas.map(({ kind, bytes }) => `${kind} ${bytes / 1024}`)).toEqual([
    ...[
      'lazy 32',
      'copied 0',
      'copied 4',
      'shared 4',
      'shared 4',
      'locked 8',
      'huge 2048',
      'file 0',
      'file 0',
      'lazy 4',
      'file 0',
    ],
  ]);
  expect(areas.filter(({ isOnDemand }) => isOnDemand).map(({ start }) => start)).toEqual([0x14000]);
  expect(areas.filter(({ isDevice }) => isDevice).map(({ name }) => name)).toEqual(['/dev/dri/card0']);
  const KIB = 1024;
  expect(sumOf(areas)).toEqual({
    bytes: { lazy: 36 * KIB, shared: 4 * KIB, copied: 4 * KIB, locked: 8 * KIB, huge: 2048 * KIB },
    swapped: 8 * KIB,
  });
});

test('a sample stands for all memory', () => {
  expect(estimate(10, 100, 1_000_000, 2000)).toEqual({ bytesPerSecond: 50_000 });
  expect(estimate(0, 0, 1_000_000, 2000)).toEqual({ bytesPerSecond: 0 });
});

test.each([1, 2, 3, 8, 100, 4096])('each of %i parts comes once', (parts) => {
  const order = Array.from({ length: parts }, (_, step) => partAt(step, parts));
  expect(new Set(order).size).toBe(parts);
  expect(Math.max(...order)).toBe(parts - 1);
});
