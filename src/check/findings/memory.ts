import { type Finding, mebibytes } from '../finding.ts';
import type { MemoryFacts } from '../proc/memory.ts';

/** From here on it is felt: at 1 GB/s each way, 50 MB are 100 ms. */
const FELT_BYTES = 50e6;

/** Remarks about memory that cannot follow after the restore. */
export function memoryFindings({ bytes, swapped }: MemoryFacts): Finding[] {
  const { shared, copied, locked, huge } = bytes;
  const eager = shared + copied + locked + huge;
  const parts = Object.entries({ shared, 'changed copies of files': copied, locked, 'huge pages': huge }).filter(
    ([, size]) => size > 0,
  );
  return [
    ...(eager < FELT_BYTES
      ? []
      : [
          {
            id: 'eager-memory',
            severity: 'hot' as const,
            seen: parts.map(([name, size]) => `${mebibytes(size)} ${name}`).join(', '),
            why: 'such memory is dumped while the container is frozen, at about 1 GB/s each way, in every mode',
            todo: 'nothing, or less of it: a smaller shared buffer, no mlockall',
          },
        ]),
    ...(swapped === 0
      ? []
      : [
          {
            id: 'swapped-memory',
            severity: 'hot' as const,
            seen: mebibytes(swapped),
            why: 'it has to be read back from the swap before it can be dumped',
            todo: 'expect that the dump takes longer',
          },
        ]),
  ];
}
