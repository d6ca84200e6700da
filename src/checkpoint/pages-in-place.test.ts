import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFile,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Sum } from '../archive/writer.ts';
import { encodeImage } from '../criu/encode.ts';
import { ImageSet } from '../criu/image-set.ts';
import { PAGE } from '../criu/images.fixture.ts';
import { readPageMap } from '../criu/page-map.ts';
import { folderSource } from '../criu/source.ts';
import { PagesInPlace } from './pages-in-place.ts';

const AT = 300 * PAGE;
const PAGES = randomBytes(5 * PAGE);
const MEMBERS = {
  'checkpoint/pages-1.img': { size: PAGES.length, sha256: createHash('sha256').update(PAGES).digest('hex') },
} satisfies Record<string, Sum>;
const LEFT = new Map([['checkpoint/pages-1.img', { at: AT, size: PAGES.length }]]);
const NOW = Promise.resolve();
const PRESENT = 4;

/** In a thread whose memory is limited. */
const PREPARE = `
  const { workerData: { script, archive, folder, at, size } } = require('node:worker_threads');
  import(script).then(async ({ PagesInPlace }) => {
    const left = new Map([['checkpoint/pages-1.img', { at, size }]]);
    const pages = await PagesInPlace.prepare(archive, folder, left, undefined, Promise.resolve());
    await pages[Symbol.asyncDispose]();
  });`;

let folder: string;
let images: string;
let archive: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-test-'));
  images = join(folder, 'checkpoint');
  archive = join(folder, 'a.tar');
  await mkdir(images);
  await writeFile(archive, Buffer.concat([Buffer.alloc(AT), PAGES, Buffer.alloc(1024)]));
});
afterEach(() => rm(folder, { recursive: true }));

/** Two runs: of two and three pages, the first one at page 16. */
function pageMap(flags = PRESENT): Buffer {
  const entries = [
    { vaddr: BigInt(16 * PAGE), compat_nr_pages: 2, flags },
    { vaddr: BigInt(1024 * PAGE), compat_nr_pages: 3, flags: PRESENT },
  ];
  return encodeImage('PAGEMAP', entries, { head: { pages_id: 1 } });
}

async function mapIn(path: string) {
  return readPageMap(await ImageSet.open(folderSource(path)), 'PAGEMAP', '7', PAGE);
}

describe('pages that CRIU can read where they are', () => {
  beforeEach(() => writeFile(join(images, 'pagemap-7.img'), pageMap()));

  test('are said to be in the dump before, which begins with pages that nobody asks for', async () => {
    await using pages = await PagesInPlace.prepare(archive, folder, LEFT, MEMBERS, NOW);
    expect(await mapIn(images)).toMatchObject({
      pages: 'pages-1.img',
      bytes: 0,
      runs: [
        { start: BigInt(16 * PAGE), end: BigInt(18 * PAGE), where: 'parent' },
        { start: BigInt(1024 * PAGE), end: BigInt(1027 * PAGE), where: 'parent' },
      ],
    });
    expect(await readFile(join(images, 'pages-1.img'))).toHaveLength(0);
    const before = join(images, 'parent');
    const set = await ImageSet.open(folderSource(before));
    const entries = await set.entries('PAGEMAP', '7');
    // 300 pages are in the archive before: they fit below the first page that counts sixteen at a time.
    const passedOver = entries.filter(({ vaddr }) => vaddr === 0n);
    expect(passedOver.map(({ compat_nr_pages }) => compat_nr_pages)).toEqual([...Array(18).fill(16), 12]);
    expect(entries.slice(passedOver.length).map((entry) => [entry.vaddr, entry.compat_nr_pages, entry.flags])).toEqual([
      [BigInt(16 * PAGE), 2, PRESENT],
      [BigInt(1024 * PAGE), 3, PRESENT],
    ]);
    expect(await readlink(join(before, 'pages-1.img'))).toBe('../../a.tar');
    await Promise.all([pages.near, pages.verified]);
  });

  test('are in more runs than anybody wants to hold', async () => {
    const runs = 200_000;
    const entries = Array.from({ length: runs }, (_, index) => ({
      vaddr: BigInt((16 + 2 * index) * PAGE),
      compat_nr_pages: 1,
      flags: PRESENT,
    }));
    await writeFile(join(images, 'pagemap-7.img'), encodeImage('PAGEMAP', entries, { head: { pages_id: 1 } }));
    await truncate(archive, AT + runs * PAGE);
    // All of the runs as objects have over 50 MiB.
    const worker = new Worker(PREPARE, {
      eval: true,
      workerData: { script: import.meta.resolve('./pages-in-place.ts'), archive, folder, at: AT, size: runs * PAGE },
      resourceLimits: { maxOldGenerationSizeMb: 36 },
    });
    expect(await Promise.race([once(worker, 'exit'), once(worker, 'error')])).toEqual([0]);
    const last = BigInt((16 + 2 * (runs - 1)) * PAGE);
    expect((await mapIn(images))?.runs.at(-1)).toMatchObject({ start: last, where: 'parent' });
    const before = await ImageSet.open(folderSource(join(images, 'parent')));
    expect((await before.entries('PAGEMAP', '7')).at(-1)).toMatchObject({ vaddr: last, flags: PRESENT });
  });

  test('are not what the manifest says', async () => {
    await using file = await open(archive, 'r+');
    await file.write(Buffer.from([PAGES.readUInt8(4 * PAGE) ^ 1]), 0, 1, AT + 4 * PAGE);
    await using pages = await PagesInPlace.prepare(archive, folder, LEFT, MEMBERS, NOW);
    await expect(pages.verified).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/a\.tar .*: checkpoint\/pages-1\.img is not what its manifest says/),
    });
    await pages.near;
  });

  test('are written to while they are read', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    await using pages = await PagesInPlace.prepare(archive, folder, LEFT, MEMBERS, promise);
    await appendFile(archive, 'x');
    resolve();
    await expect(pages.verified).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/it was changed while it was read/),
    });
  });

  test('end too early', async () => {
    await using file = await open(archive, 'r+');
    await file.truncate(AT + PAGE);
    await using pages = await PagesInPlace.prepare(archive, folder, LEFT, MEMBERS, NOW);
    await expect(pages.verified).rejects.toMatchObject({
      message: expect.stringMatching(/it ends 16384 bytes too early/),
    });
  });

  test('without a manifest nobody knows what they were', async () => {
    await using pages = await PagesInPlace.prepare(archive, folder, LEFT, undefined, NOW);
    await pages.verified;
  });
});

describe.each<[why: string, files: Record<string, Buffer>]>([
  ['of shared memory', { 'pagemap-shmem-9.img': pageMap() }],
  ['of which some are in an earlier dump', { 'pagemap-7.img': pageMap(1) }],
  ['that two processes have', { 'pagemap-7.img': pageMap(), 'pagemap-8.img': pageMap() }],
  ['that nobody has', {}],
])('pages %s', (_, files) => {
  beforeEach(async () => {
    for (const [name, content] of Object.entries(files)) await writeFile(join(images, name), content);
  });

  test('are copied', async () => {
    await using pages = await PagesInPlace.prepare(archive, folder, LEFT, MEMBERS, NOW);
    await pages.verified;
    expect(await readFile(join(images, 'pages-1.img'))).toEqual(PAGES);
    expect((await readdir(images)).sort()).toEqual([...Object.keys(files), 'pages-1.img'].sort());
    for (const [name, content] of Object.entries(files)) expect(await readFile(join(images, name))).toEqual(content);
  });

  test('are refused at once when they are not what the manifest says', async () => {
    const members = { 'checkpoint/pages-1.img': { size: PAGES.length, sha256: '0'.repeat(64) } };
    await expect(PagesInPlace.prepare(archive, folder, LEFT, members, NOW)).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
    });
  });
});
