import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { smallCheckpoint } from '../criu/checkpoint.fixture.ts';
import { encodeImage } from '../criu/encode.ts';
import { mm, PAGE } from '../criu/images.fixture.ts';
import { type FixtureOptions, layer, writeArchive } from './checkpoint.fixture.ts';
import { diff } from './diff.ts';
import { differenceTables } from './diff-text.ts';
import { Checkpoint } from './open.ts';

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-diff-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function compare(before: FixtureOptions, after: FixtureOptions) {
  await using one = await Checkpoint.open(await writeArchive(join(folder, 'a.tar'), before));
  await using other = await Checkpoint.open(await writeArchive(join(folder, 'b.tar'), after));
  return await diff(one, other);
}

/** Memory of one process whose pages are named by a letter each: what address has which content. */
function memoryOf(runs: readonly { at: bigint; pages?: string; parent?: number }[]): Record<string, Buffer> {
  const entries = runs.map(({ at, pages, parent }) =>
    pages === undefined
      ? { vaddr: at, compat_nr_pages: 0, nr_pages: BigInt(parent ?? 0), flags: 1 }
      : { vaddr: at, compat_nr_pages: 0, nr_pages: BigInt(pages.length), flags: 4 },
  );
  const letters = runs.flatMap(({ pages = '' }) => [...pages]);
  return {
    'pagemap-1.img': encodeImage('PAGEMAP', entries, { head: { pages_id: 1 } }),
    'pages-1.img': Buffer.concat(letters.map((letter) => Buffer.alloc(PAGE, letter))),
  };
}

const heap = { start: 0x1000n, end: 0x9000n, status: 1 | (1 << 5) };
const anonymous = { start: 0x10000n, end: 0x20000n, status: 1 | (1 << 9) };
const mappings = { 'mm-1.img': mm([heap, anonymous]) };

test('of a checkpoint and itself nothing differs', async () => {
  const found = await compare({}, {});
  expect(found).toMatchObject({
    warnings: [],
    processes: { added: [], removed: [] },
    files: { added: [], removed: [] },
    sockets: { added: [], removed: [] },
    // One page of the fixture is in an earlier dump.
    memory: [{ pid: 1, added: 0, removed: 0, changed: 0, same: 3, unknown: 1 }],
    sharedMemory: [{ start: 'segment 77', same: 1, changed: 0 }],
    layer: { added: [], removed: [], changed: [] },
    volumes: {},
  });
});

describe('memory is compared page by page, by its content,', () => {
  const differenceOf = async (before: Record<string, Buffer>, after: Record<string, Buffer>) =>
    (await compare({ images: { ...mappings, ...before } }, { images: { ...mappings, ...after } })).memory[0];

  test('wherever it lies in the pages image', async () => {
    const before = memoryOf([{ at: 0x2000n, pages: 'abcd' }]);
    // The same pages but c; one before them, one behind them, and a gap where d was.
    const after = memoryOf([
      { at: 0x1000n, pages: 'zabX' },
      { at: 0x6000n, pages: 'e' },
    ]);
    expect(await differenceOf(before, after)).toMatchObject({ added: 2, removed: 1, changed: 1, same: 2, unknown: 0 });
  });

  test('and told by mapping', async () => {
    const before = memoryOf([
      { at: 0x2000n, pages: 'aa' },
      { at: 0x10000n, pages: 'bbb' },
    ]);
    const after = memoryOf([
      { at: 0x2000n, pages: 'ax' },
      { at: 0x10000n, pages: 'xxb' },
    ]);
    expect((await differenceOf(before, after))?.mappings).toMatchObject([
      { start: '0x1000', kind: 'heap', changed: 1, same: 1 },
      { start: '0x10000', kind: 'anonymous', changed: 2, same: 1 },
    ]);
  });

  test('more of it than is read at once', async () => {
    const many = 700;
    const large = { 'mm-1.img': mm([{ start: 0n, end: BigInt(many * PAGE), status: 1 | (1 << 9) }]) };
    const before = { ...large, ...memoryOf([{ at: 0n, pages: 'a'.repeat(many) }]) };
    const after = { ...large, ...memoryOf([{ at: 0n, pages: `${'a'.repeat(many - 1)}b` }]) };
    expect(await differenceOf(before, after)).toMatchObject({ changed: 1, same: many - 1 });
  });

  test('and unknown where it is in an earlier dump', async () => {
    const before = memoryOf([{ at: 0x2000n, pages: 'aa' }]);
    const after = memoryOf([{ at: 0x2000n, parent: 2 }]);
    expect(await differenceOf(before, after)).toMatchObject({ added: 0, removed: 0, changed: 0, unknown: 2 });
  });

  test('as long as there is as much of it as its map says', async () => {
    const whole = memoryOf([{ at: 0x2000n, pages: 'aaaa' }]);
    const short = { ...whole, 'pages-1.img': Buffer.alloc(PAGE) };
    await expect(differenceOf(whole, short)).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/pages-1.img/),
    });
  });
});

test('processes are the same by number and name', async () => {
  const tree = [
    { pid: 1, ppid: 0, pgid: 1, sid: 1, threads: [1, 5] },
    { pid: 8, ppid: 1, pgid: 1, sid: 1, threads: [8] },
  ];
  const images = { 'pstree.img': encodeImage('PSTREE', tree), 'core-8.img': smallCheckpoint()['core-7.img'] as Buffer };
  expect((await compare({}, { images })).processes).toEqual({
    added: [{ pid: 8, comm: 'ended' }],
    removed: [{ pid: 7, comm: 'ended' }],
  });
});

test('open files and sockets have come and gone', async () => {
  const images = {
    'fdinfo-1.img': encodeImage('FDINFO', [
      { id: 3, flags: 0, type: 'PIPE', fd: 1 },
      { id: 2, flags: 0, type: 'REG', fd: 9 },
    ]),
  };
  const { files } = await compare({}, { images });
  expect(files.added).toEqual([{ pid: 1, comm: 'server', fd: 9, kind: 'file', path: '/data' }]);
  expect(files.removed).toEqual([{ pid: 1, comm: 'server', fd: 0, kind: 'file', path: '/data' }]);
  const without = encodeImage('FILES', [
    {
      type: 'REG',
      id: 1,
      reg: {
        id: 1,
        pos: 0n,
        flags: 0,
        name: '/usr/bin/server',
        fown: {
          ...{ uid: 0, euid: 0, signum: 0, pid_type: 0, pid: 0 },
        },
      },
    },
  ]);
  const noFiles = { 'files.img': without, 'fdinfo-1.img': encodeImage('FDINFO', []) };
  const { sockets } = await compare({}, { images: noFiles });
  expect(sockets.added).toEqual([]);
  expect(sockets.removed.map(({ kind, state, local, peer }) => [kind, state, local, peer])).toEqual([
    ['inet6 tcp', 'LISTEN', '[::]:6379', ''],
    ['inet6 tcp', 'ESTABLISHED', '[::ffff:10.0.0.1]:6379', '[::ffff:10.0.0.1]:40000'],
    ['unix stream', 'LISTEN', '/run/server.sock', ''],
  ]);
});

test('written files are compared by content, rights and time, and deletions by what they delete', async () => {
  const before = layer(
    { name: './data/', type: 'folder', mode: 0o755, mtime: 1 },
    { name: './data/same', content: 'one' },
    { name: './data/content', content: 'one' },
    { name: './data/mode', content: 'one' },
    { name: './data/gone', content: 'one' },
    { name: './data/link', type: 'symlink', target: 'same' },
  );
  const after = layer(
    { name: './data/', type: 'folder', mode: 0o755, mtime: 2 },
    { name: './data/same', content: 'one' },
    { name: './data/content', content: 'two' },
    { name: './data/mode', content: 'one', mode: 0o600 },
    { name: './data/new', content: '1234' },
    { name: './data/link', type: 'symlink', target: 'new' },
    { name: './bin/.wh.usleep' },
  );
  const members = (bytes: Buffer) => ({ members: { 'rootfs-diff.tar': bytes } });
  const { layer: found } = await compare(members(before), members(after));
  expect(found).toEqual({
    added: [
      { path: 'bin/usleep', type: 'deletion', sizeBytes: 0 },
      { path: 'data/new', type: 'file', sizeBytes: 4 },
    ],
    removed: [{ path: 'data/gone', type: 'file', sizeBytes: 3 }],
    changed: [
      { path: 'data/content', type: 'file', sizeBytes: 3, what: ['content'] },
      { path: 'data/link', type: 'symlink', sizeBytes: 0, what: ['target'] },
      { path: 'data/mode', type: 'file', sizeBytes: 3, what: ['mode'] },
    ],
  });
});

test('so are files of volumes and of /dev/shm, whose names are names', async () => {
  const before = {
    'volumes/cache.tar': layer({ name: './kept', content: 'one' }, { name: './.wh.x', content: 'one' }),
  };
  const after = {
    'volumes/cache.tar': layer({ name: './kept', content: 'two' }, { name: './.wh.x', content: 'one' }),
    'volumes/new.tar': layer({ name: './file', content: '12' }),
    'devshm-checkpoint.tar': layer({ name: './shared', content: '1' }),
  };
  const { volumes } = await compare({ members: before }, { members: after });
  const nothing = { added: [], removed: [], changed: [] };
  expect(volumes).toEqual({
    'volumes/cache': { ...nothing, changed: [{ path: 'kept', type: 'file', sizeBytes: 3, what: ['content'] }] },
    'volumes/new': { ...nothing, added: [{ path: 'file', type: 'file', sizeBytes: 2 }] },
    '/dev/shm': { ...nothing, added: [{ path: 'shared', type: 'file', sizeBytes: 1 }] },
  });
  const { volumes: back } = await compare({ members: after }, { members: before });
  expect(back['/dev/shm']?.removed).toEqual([{ path: 'shared', type: 'file', sizeBytes: 1 }]);
  const titles = differenceTables(await compare({ members: before }, { members: after })).map(({ title }) => title);
  expect(titles.slice(-3)).toEqual(['Files of volumes/cache', 'Files of volumes/new', 'Files of /dev/shm']);
});

test('of two containers it warns', async () => {
  const { warnings } = await compare({}, { manifest: { container: { id: 'beef', name: 'other', config: '' } } });
  expect(warnings).toEqual(['they are of different containers: default/server-0/main and default/server-0/other']);
});

test('the tables say what came, what went and what changed', async () => {
  const before = { images: { ...mappings, ...memoryOf([{ at: 0x2000n, pages: 'aa' }]) } };
  const after = { images: { ...mappings, ...memoryOf([{ at: 0x2000n, pages: 'ax' }]) } };
  const tables = differenceTables(await compare(before, after));
  expect(tables.map(({ title }) => title)).toEqual([
    'Processes: no difference',
    'Open files: no difference',
    'Sockets: no difference',
    'Memory, in pages',
    'Files of the writable layer: no difference',
  ]);
  expect(tables[3]?.rows.slice(1, 3)).toEqual([
    ['1', 'server', 'all', '1', '0', '0', '1', '0', '4.0 KiB'],
    ['1', '', '0x1000 rw-p heap', '1', '0', '0', '1', '0', '4.0 KiB'],
  ]);
});
