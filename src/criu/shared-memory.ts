import type { ImageSet } from './image-set.ts';
import { readPageMap } from './page-map.ts';

/** A segment of memory that processes share: anonymous, of SysV, or a memfd's. */
export interface SharedMemory {
  /** As in the mappings of it. */
  readonly segment: bigint;
  /** Bytes of it in this checkpoint's pages. */
  readonly bytes: number;
}

/** @param pageSize in bytes; the same for all processes of a machine */
export async function readSharedMemory(images: ImageSet, pageSize: number): Promise<SharedMemory[]> {
  const found: SharedMemory[] = [];
  for (const id of images.idsOf('SHMEM_PAGEMAP')) {
    const map = await readPageMap(images, 'SHMEM_PAGEMAP', id, pageSize);
    found.push({ segment: BigInt(id), bytes: map?.bytes ?? 0 });
  }
  return found;
}
