import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { encodeImage } from '../criu/encode.ts';
import { decodeImage } from '../criu/image.ts';
import type { Kind } from '../criu/kinds.ts';
import { collisions, parseObjects, shareOutIpc } from './ipc.ts';

let folders: string[];

beforeEach(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'gantry-ipc-'));
  folders = [join(folder, 'one'), join(folder, 'two')];
  for (const one of folders) {
    await mkdir(one);
    const desc = (id: number) => ({ key: 4711, uid: 0, gid: 0, cuid: 0, cgid: 0, mode: 0o600, id });
    const segments = [1, 2, 3].map((id) => ({ desc: desc(id), size: 4096n, in_pagemaps: true }));
    await put(one, 'ipcns-shm-9.img', encodeImage('IPCNS_SHM', segments));
    const sets = encodeImage('IPCNS_SEM', [{ desc: desc(7), nsems: 1 }], { extras: [Buffer.alloc(8)] });
    await put(one, 'ipcns-sem-9.img', sets);
  }
});
afterEach(() => rm(join(folders[0] ?? '', '..'), { recursive: true }));

const put = (folder: string, name: string, bytes: Buffer) => writeFile(join(folder, name), bytes);
const isSegment = 1 << 10;
const maps = async (folder: string, ...ids: number[]) => {
  const vma = { start: 0n, end: 4096n, pgoff: 0n, prot: 3, flags: 1, fd: -1n };
  const vmas = [
    ...ids.map((id) => ({ ...vma, shmid: BigInt(id), status: isSegment })),
    { ...vma, shmid: 9n, status: 1 },
  ];
  const at = Object.fromEntries(
    ['code', 'data', 'stack', 'brk', 'start_brk', 'arg_start', 'arg_end', 'env_start', 'env_end'].map((name) => [
      name.includes('_') || name === 'brk' ? `mm_${name}` : `mm_start_${name}`,
      0n,
    ]),
  );
  const mm = { ...at, mm_end_code: 0n, mm_end_data: 0n, exe_file_id: 1, mm_saved_auxv: [], vmas };
  await put(folder, 'mm-1.img', encodeImage('MM', [mm]));
};
const idsIn = async (folder: string, name: string, kind: Kind & ('IPCNS_SHM' | 'IPCNS_SEM')) =>
  decodeImage(name, await readFile(join(folder, name)), kind).entries.map(({ desc }) => desc.id);

test('a segment goes with who has mapped it, everything else with the first', async () => {
  const [one = '', two = ''] = folders;
  await maps(one, 1);
  await maps(two, 2, 2);
  await shareOutIpc(folders);
  expect(await idsIn(one, 'ipcns-shm-9.img', 'IPCNS_SHM')).toEqual([1, 3]);
  expect(await idsIn(two, 'ipcns-shm-9.img', 'IPCNS_SHM')).toEqual([2]);
  expect(await idsIn(one, 'ipcns-sem-9.img', 'IPCNS_SEM')).toEqual([7]);
  expect(await idsIn(two, 'ipcns-sem-9.img', 'IPCNS_SEM')).toEqual([]);
});

test('a segment that two have mapped is refused', async () => {
  for (const folder of folders) await maps(folder, 1);
  await expect(shareOutIpc(folders)).rejects.toMatchObject({
    reason: 'UNSUPPORTED',
    message: expect.stringMatching(/two containers.*\(1\)/),
  });
});

test('what is in the way has the key or the place in the table', () => {
  const tables = `       key      shmid perms                  size  cpid  lpid nattch   uid
 -559038737          3   600                  4096     1     1      0     0
          0      32770   600                  4096     1     1      0     0
       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime
       key      msqid perms      cbytes       qnum lspid lrpid   uid
      4711          0   600           4          1     9     0     0
`;
  const there = parseObjects(tables);
  expect(there).toEqual([
    { kind: 'shm', key: 0xdeadbeef, id: 3 },
    { kind: 'shm', key: 0, id: 32770 },
    { kind: 'msg', key: 4711, id: 0 },
  ]);
  const ids = (...wanted: Parameters<typeof collisions>[0]) => collisions(wanted, there).map(({ id }) => id);
  expect(ids({ kind: 'shm', key: 0xdeadbeef, id: 5 })).toEqual([3]);
  expect(ids({ kind: 'shm', key: 0, id: 2 })).toEqual([32770]);
  expect(ids({ kind: 'sem', key: 4711, id: 0 })).toEqual([]);
});
