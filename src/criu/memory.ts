import type { MmEntry, VmaEntry } from '../gen/criu.ts';
import { badImage } from './cursor.ts';
import type { FileTable } from './file-table.ts';
import type { ImageSet } from './image-set.ts';
import { fileOf } from './kinds.ts';
import { type PageMap, presentBytes, readPageMap } from './page-map.ts';
import type { AddressRange } from './read-memory.ts';

export type MappingKind =
  | 'anonymous'
  | 'file'
  | 'shared'
  | 'sysv'
  | 'memfd'
  | 'heap'
  | 'stack'
  | 'vdso'
  | 'vvar'
  | 'vsyscall'
  | 'aio'
  | 'socket'
  | 'other';

export interface Mapping extends AddressRange {
  readonly kind: MappingKind;
  /** As /proc/PID/maps shows it: "rw-p". */
  readonly protection: string;
  /** Of a file's mapping. */
  readonly path?: string;
  /** Of a file's mapping or of one of a segment: offset in it, in bytes. */
  readonly offset?: bigint;
  /** Number of the segment in {@link SharedMemory}; its bytes count there, since several processes may map it. */
  readonly segment?: bigint;
  /** Bytes of it in this checkpoint's pages, without those of a segment. */
  readonly bytes: number;
}

export interface ProcessMemory {
  /** In bytes. */
  readonly pageSize: number;
  /** Absolute path of the program. */
  readonly program?: string;
  readonly argumentRange: AddressRange;
  readonly environmentRange: AddressRange;
  readonly mappings: readonly Mapping[];
  /** Private memory in this checkpoint, in bytes. */
  readonly bytes: number;
  /** Where the private memory is; undefined when none of it was written. */
  readonly pageMap?: PageMap;
}

/** Bits of vma_entry.status: CRIU's criu/include/image.h. The first that fits tells the kind. */
const STATUS: readonly (readonly [number, MappingKind])[] = [
  [1 << 2, 'vsyscall'],
  [1 << 3, 'vdso'],
  [1 << 12, 'vvar'],
  [1 << 10, 'sysv'],
  [1 << 11, 'socket'],
  [1 << 13, 'aio'],
  [1 << 14, 'memfd'],
  [1 << 5, 'heap'],
  [1 << 1, 'stack'],
  [(1 << 6) | (1 << 7), 'file'],
  [1 << 8, 'shared'],
  [1 << 9, 'anonymous'],
];

const GUARD = 1 << 16;

const MAP_SHARED = 1;
/** Of the auxiliary vector. */
const AT_PAGESZ = 6n;
const PAGE_SIZES = new Set([4096n, 16384n, 65536n]);

/** undefined for a process without memory: one that has ended. */
export async function readProcessMemory(
  images: ImageSet,
  pid: number,
  files: FileTable,
): Promise<ProcessMemory | undefined> {
  const mm = await images.entry('MM', pid);
  if (mm === undefined) return undefined;
  // CRIU before 1.2 keeps the mappings in an image of their own.
  const all = mm.vmas.length > 0 ? mm.vmas : await images.entries('VMAS', pid);
  // Guards are no mappings of their own but parts of others, told once more at the end of the list.
  const vmas = all.filter(({ status }) => (status & GUARD) === 0);
  checkOrder(vmas, fileOf('MM', pid));
  const pageSize = pageSizeOf(mm);
  const pageMap = await readPageMap(images, 'PAGEMAP', pid, pageSize);
  const bytes = pageMap === undefined ? [] : presentBytes(pageMap, vmas);
  const program = files.pathOf(mm.exe_file_id);
  return {
    pageSize,
    ...(program === undefined ? {} : { program }),
    argumentRange: { start: mm.mm_arg_start, end: mm.mm_arg_end },
    environmentRange: { start: mm.mm_env_start, end: mm.mm_env_end },
    mappings: vmas.map((vma, index) => mappingOf(vma, mm, files, bytes[index] ?? 0)),
    bytes: pageMap?.bytes ?? 0,
    ...(pageMap === undefined ? {} : { pageMap }),
  };
}

/** In bytes; what the kernel has told the process, 4096 when that is not in the image. */
export function pageSizeOf({ mm_saved_auxv: auxv }: MmEntry): number {
  for (let index = 0; index + 1 < auxv.length; index += 2) {
    const size = auxv[index + 1];
    if (auxv[index] === AT_PAGESZ && size !== undefined && PAGE_SIZES.has(size)) return Number(size);
  }
  return 4096;
}

function checkOrder(vmas: readonly VmaEntry[], file: string): void {
  let last = 0n;
  for (const { start, end } of vmas) {
    if (start < last || end < start) throw badImage(file, `the mapping at 0x${start.toString(16)} is out of order`);
    last = end;
  }
}

function mappingOf(vma: VmaEntry, mm: MmEntry, files: FileTable, bytes: number): Mapping {
  const { start, end, pgoff, shmid } = vma;
  const kind = kindOfMapping(vma, mm);
  const protection = protectionOf(vma);
  if (kind === 'shared' || kind === 'sysv')
    return { start, end, kind, protection, offset: pgoff, segment: shmid, bytes };
  if (kind !== 'file' && kind !== 'memfd') return { start, end, kind, protection, bytes };
  const path = files.pathOf(Number(shmid));
  return { start, end, kind, protection, ...(path === undefined ? {} : { path }), offset: pgoff, bytes };
}

function kindOfMapping({ start, end, status }: VmaEntry, mm: MmEntry): MappingKind {
  const kind = STATUS.find(([bits]) => (status & bits) !== 0)?.[1] ?? 'other';
  // The kernel's names are not in the image, but where a stack and a heap begin is.
  if (kind === 'anonymous' && start <= mm.mm_start_stack && mm.mm_start_stack < end) return 'stack';
  if (kind === 'anonymous' && start < mm.mm_brk && end > mm.mm_start_brk) return 'heap';
  return kind;
}

function protectionOf({ prot, flags }: VmaEntry): string {
  const letters = [...'rwx'].map((letter, bit) => (prot & (1 << bit) ? letter : '-'));
  return `${letters.join('')}${flags & MAP_SHARED ? 's' : 'p'}`;
}
