import { badImage } from './cursor.ts';
import { ImageSet } from './image-set.ts';
import { fileOf } from './kinds.ts';
import { pageSizeOf } from './memory.ts';
import { readPageMap, readRun } from './page-map.ts';
import type { ImageSource } from './source.ts';

/**
 * Whether every page that a dump leaves to earlier ones is there; of each run the end is read. CRIU would notice only
 * while it restores, or not at all. Errors: BAD_ARCHIVE.
 */
export async function checkEarlierPages(source: ImageSource): Promise<void> {
  const images = await ImageSet.open(source);
  const [pid] = images.idsOf('MM');
  if (pid === undefined) return;
  const pageSize = pageSizeOf(await images.required('MM', pid));
  for (const kind of ['PAGEMAP', 'SHMEM_PAGEMAP'] as const) {
    for (const id of images.idsOf(kind)) {
      const map = await readPageMap(images, kind, id, pageSize);
      for (const run of map?.runs ?? []) {
        const where = `0x${run.start.toString(16)}`;
        if (run.where === 'parent') throw badImage(fileOf(kind, id), `the pages at ${where} are in no earlier dump`);
        if (map !== undefined && run.earlier !== undefined && run.end > run.start)
          await readRun(source, map, run, run.end - 1n, 1);
      }
    }
  }
}
