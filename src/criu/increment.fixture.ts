import { readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { encodeImage } from './encode.ts';
import { ImageSet } from './image-set.ts';
import type { EntryOf } from './kinds.ts';
import { PARENT, type PageMap, PRESENT, readPageMap, readRun } from './page-map.ts';
import { folderSource, type ImageSource } from './source.ts';

/*
 * A dump as CRIU makes it after another one on a kernel that marks written pages, made from a whole one: pages that are the same
 * in the dump before are flagged PARENT, and lack in the pages images (CRIU's criu/page-xfer.c, page_xfer_dump_pages).
 */

const PAGE = 4096;

/** @param images folder with a whole dump, which is changed @param link what CRIU's link says */
export async function makeIncrement(
  images: string,
  before: ImageSource,
  link: string,
): Promise<{ own: number; inParent: number }> {
  const source = folderSource(images);
  const [set, old] = [await ImageSet.open(source), await ImageSet.open(before)];
  const counts = { own: 0, inParent: 0 };
  for (const name of await readdir(images)) {
    const [, shared, id = ''] = /^pagemap-(shmem-)?([0-9]+)\.img$/.exec(name) ?? [];
    if (id === '') continue;
    const kind = shared === undefined ? 'PAGEMAP' : 'SHMEM_PAGEMAP';
    const map = await readPageMap(set, kind, id, PAGE);
    if (map === undefined) continue;
    const known = await pagesOf(before, await readPageMap(old, kind, id, PAGE));
    const entries: EntryOf<'PAGEMAP'>[] = [];
    const written: Buffer[] = [];
    for (const [address, bytes] of await pagesOf(source, map)) {
      const isSame = known.get(address)?.equals(bytes) === true;
      if (!isSame) written.push(bytes);
      add(entries, address, isSame ? PARENT : PRESENT);
      counts[isSame ? 'inParent' : 'own']++;
    }
    const head = { pages_id: Number(/[0-9]+/.exec(map.pages)?.[0]) };
    await rm(join(images, name));
    await writeFile(join(images, name), encodeImage(kind, entries, { head }), { mode: 0o600 });
    await writeFile(join(images, map.pages), Buffer.concat(written));
  }
  await symlink(link, join(images, 'parent'));
  return counts;
}

function add(entries: EntryOf<'PAGEMAP'>[], vaddr: bigint, flags: number): void {
  const last = entries.at(-1);
  if (last?.flags === flags && last.vaddr + BigInt(last.compat_nr_pages * PAGE) === vaddr) last.compat_nr_pages++;
  else entries.push({ vaddr, compat_nr_pages: 1, flags });
}

async function pagesOf(source: ImageSource, map: PageMap | undefined): Promise<Map<bigint, Buffer>> {
  const pages = new Map<bigint, Buffer>();
  for (const run of map?.runs ?? []) {
    if (map === undefined || run.where !== 'present') continue;
    const bytes = await readRun(source, map, run, run.start, Number(run.end - run.start));
    for (let at = 0; at < bytes.length; at += PAGE) pages.set(run.start + BigInt(at), bytes.subarray(at, at + PAGE));
  }
  return pages;
}
