import { describe, expect, test } from 'vitest';
import { smallCheckpoint } from './checkpoint.fixture.ts';
import { type CheckpointImages, readImages } from './checkpoint.ts';
import { encodeImage } from './encode.ts';
import { core, FOWN, memorySource, SOCKET_OPTIONS } from './images.fixture.ts';
import type { Process } from './process.ts';
import { flatten } from './process-tree.ts';

const read = (changed: Record<string, Buffer> = {}) => readImages(memorySource({ ...smallCheckpoint(), ...changed }));

function server({ processes }: CheckpointImages): Process {
  return processes[0] as Process;
}

describe('a checkpoint', () => {
  test('tells architecture and what CRIU did', async () => {
    const images = await read();
    expect(images.architecture).toBe('X86_64');
    expect(images.criu).toEqual({
      imageVersion: 2,
      lsm: 'apparmor',
      networkLock: 'nftables',
      tcpClosed: false,
      dumpUptimeUs: 12_345n,
      runId: 'run',
      plugins: [],
    });
    expect(images.statistics).toEqual({
      dump: {
        freezingUs: 10,
        frozenUs: 20,
        memoryDumpUs: 30,
        memoryWriteUs: 40,
        pagesScanned: 100n,
        pagesSkippedParent: 1n,
        pagesWritten: 3n,
        pagesLazy: 0n,
      },
    });
  });

  test('has the tree of processes with their threads', async () => {
    const images = await read();
    expect(flatten(images.processes).map(({ pid }) => pid)).toEqual([1, 7]);
    expect(server(images)).toMatchObject({
      ...{ pid: 1, ppid: 0, pgid: 1, sid: 1, state: 'alive', comm: 'server', cgroupSet: 1, oomScoreAdjust: -5 },
      ...{ workingFolder: '/data', rootFolder: '/data' },
      threads: [
        { tid: 1, comm: 'server' },
        { tid: 5, comm: 'worker' },
      ],
    });
    const [ended] = server(images).children;
    expect(ended).toMatchObject({ pid: 7, state: 'zombie', exitStatus: 256, files: [], children: [] });
    expect(ended?.memory).toBeUndefined();
  });

  test('tells credentials by name', async () => {
    const { credentials, limits } = server(await read());
    expect(credentials).toMatchObject({
      uids: { real: 999, effective: 999, saved: 999, filesystem: 999 },
      gids: { real: 998 },
      groups: [7, 8],
      noNewPrivileges: true,
      seccomp: 'filter',
      lsmProfile: 'cri-containerd.apparmor.d',
    });
    expect(credentials?.capabilities).toMatchObject({
      inheritable: [],
      permitted: ['NET_BIND_SERVICE'],
      effective: ['CHOWN', 'CHECKPOINT_RESTORE'],
    });
    expect(credentials?.capabilities.bounding).toHaveLength(64);
    expect(limits).toEqual([
      { resource: 'cpu', soft: 'unlimited', hard: 'unlimited' },
      { resource: 'fsize', soft: 5n, hard: 6n },
    ]);
  });

  test('tells memory by mapping, as far as it is in the pages', async () => {
    const images = await read();
    const { mappings, program, bytes } = server(images).memory ?? {};
    expect({ program, bytes }).toEqual({ program: '/usr/bin/server', bytes: 3 * 4096 });
    expect(mappings).toEqual([
      // The second of its pages; the run goes on in the heap.
      {
        start: 0x1000n,
        end: 0x3000n,
        kind: 'file',
        protection: 'r-xp',
        path: '/usr/bin/server',
        offset: 0n,
        bytes: 4096,
      },
      { start: 0x3000n, end: 0x5000n, kind: 'heap', protection: 'rw-p', bytes: 4096 },
      { start: 0x5000n, end: 0x6000n, kind: 'shared', protection: 'rw-s', offset: 0n, segment: 77n, bytes: 0 },
      { start: 0x7000n, end: 0x8000n, kind: 'stack', protection: 'rw-p', bytes: 4096 },
    ]);
    expect(images.sharedMemory).toEqual([{ segment: 77n, bytes: 4096 }]);
    expect(images.memoryBytes).toBe(4 * 4096);
  });

  test('tells open files', async () => {
    const { files } = server(await read());
    expect(files).toEqual([
      { fd: 0, id: 2, kind: 'file', path: '/data', flags: ['O_RDWR', 'O_APPEND'], closeOnExec: false, offset: 17n },
      { fd: 1, id: 3, kind: 'pipe', pipe: 42, flags: ['O_WRONLY'], closeOnExec: false },
      { fd: 6, id: 4, kind: 'socket', flags: ['O_RDWR', 'O_NONBLOCK'], closeOnExec: true },
      { fd: 7, id: 5, kind: 'socket', flags: ['O_RDWR', 'O_NONBLOCK'], closeOnExec: false },
    ]);
  });

  test('tells sockets with both their ends', async () => {
    const { sockets } = await read();
    const tcp = { family: 'inet6', type: 'stream', protocol: 'tcp', backlog: 511 };
    expect(sockets).toEqual([
      { ...tcp, id: 4, inode: 0x1e, state: 'LISTEN', listening: true, source: { address: '::', port: 6379 } },
      {
        ...{ ...tcp, id: 5, inode: 0x1f, state: 'ESTABLISHED', listening: false },
        source: { address: '::ffff:10.0.0.1', port: 6379 },
        peer: { address: '::ffff:10.0.0.1', port: 40000 },
        queues: { receivedBytes: 2, sentBytes: 3 },
      },
      {
        ...{
          id: 6,
          inode: 50,
          family: 'unix',
          type: 'stream',
          state: 'LISTEN',
          listening: true,
          backlog: 5,
        },
        path: '/run/server.sock',
      },
    ]);
  });

  test('tells mounts, cgroups and namespaces', async () => {
    const { mounts, cgroups, namespaces } = await read();
    expect(mounts).toMatchObject([
      { namespace: 11, mountPoint: '/', filesystem: 'overlay', external: true, externalKey: '/' },
      { namespace: 11, mountPoint: '/dev', filesystem: 'tmpfs', options: 'size=65536k', external: false },
    ]);
    expect(cgroups).toEqual({
      sets: [{ id: 1, members: [{ controller: '', path: '/pod/container' }] }],
      hierarchies: [{ controllers: [''], paths: ['/pod', '/pod/container'] }],
    });
    expect(namespaces).toEqual([
      { kind: 'net', id: 9, dumped: false },
      { kind: 'uts', id: 10, dumped: true, hostname: 'redis-0' },
      { kind: 'mnt', id: 11, dumped: true },
    ]);
  });
});

describe('what older CRIU wrote', () => {
  test('a file of each type has an image of its own, credentials and numbers too', async () => {
    const { 'files.img': _, ...rest } = smallCheckpoint();
    const files = {
      'reg-files.img': encodeImage('REG_FILES', [{ id: 2, flags: 0, pos: 0n, fown: FOWN, name: '/old' }]),
      'pipes.img': encodeImage('PIPES', [{ id: 3, pipe_id: 42, flags: 1, fown: FOWN }]),
      'inetsk.img': encodeImage(
        'INETSK',
        [4, 5].map((id) => ({
          ...{ id, ino: id, family: 2, type: 1, proto: 6, state: 7, src_port: 0, dst_port: 0, flags: 2, backlog: 0 },
          ...{ src_addr: [0x0100_007f], dst_addr: [0], fown: FOWN, opts: SOCKET_OPTIONS },
        })),
      ),
    };
    const images = await readImages(memorySource({ ...rest, ...files }));
    expect(server(images).files.map(({ kind, path }) => path ?? kind)).toEqual(['/old', 'pipe', 'socket', 'socket']);
    expect(images.sockets[0]).toMatchObject({
      family: 'inet',
      state: 'CLOSE',
      source: { address: '127.0.0.1', port: 0 },
    });
  });
});

describe('a checkpoint that is not sound is refused:', () => {
  const tree = (...pids: [number, number][]) =>
    encodeImage(
      'PSTREE',
      pids.map(([pid, ppid]) => ({ pid, ppid, pgid: 1, sid: 1, threads: [pid] })),
    );
  const map = (...starts: bigint[]) =>
    encodeImage(
      'PAGEMAP',
      starts.map((vaddr) => ({ vaddr, compat_nr_pages: 1, flags: 4 })),
      { head: { pages_id: 1 } },
    );

  test.each([
    ['no process', { 'pstree.img': tree() }, /^pstree\.img: it has no process/],
    ['a process twice', { 'pstree.img': tree([1, 0], [1, 0]) }, /1 is the number of two processes or threads/],
    ['a process that is its own parent', { 'pstree.img': tree([1, 0], [7, 7]) }, /1 processes are their own ancestors/],
    ['a process without its image', { 'pstree.img': tree([1, 0], [8, 1]) }, /^core-8\.img: it is missing/],
    ['pages told twice', { 'pagemap-1.img': map(0x2000n, 0x2000n) }, /^pagemap-1\.img: pages at 0x2000 are told twice/],
    ['a descriptor of no file', { 'files.img': encodeImage('FILES', []) }, /^fdinfo-1\.img: descriptor 6 is file 4/],
    [
      'a thread where a process should be',
      { 'core-7.img': core('x', { tc: undefined }) },
      /^core-7\.img: it is of a thread/,
    ],
    ['an image that is cut off', { 'mm-1.img': Buffer.alloc(3) }, /^mm-1\.img, byte 0: magic number has 4 bytes/],
  ])('%s', async (_, changed, message) => {
    await expect(read(changed)).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(message),
      hint: expect.stringContaining('another copy'),
    });
  });

  test('without an inventory', async () => {
    await expect(readImages(memorySource({}))).rejects.toMatchObject({ message: 'inventory.img: it is missing' });
  });
});
