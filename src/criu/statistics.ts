import type { DumpStatsEntry, RestoreStatsEntry } from '../gen/criu.ts';
import type { ImageSet } from './image-set.ts';

/** What CRIU has measured of a dump. `frozenUs` ends when the processes may run again, not when a client is served. */
export interface DumpStatistics {
  /** All times in microseconds. */
  readonly freezingUs: number;
  readonly frozenUs: number;
  readonly memoryDumpUs: number;
  readonly memoryWriteUs: number;
  readonly pagesScanned: bigint;
  readonly pagesSkippedParent: bigint;
  readonly pagesWritten: bigint;
  readonly pagesLazy: bigint;
  /** The same of shared memory; older CRIU does not tell. */
  readonly sharedPagesScanned?: bigint;
  readonly sharedPagesSkippedParent?: bigint;
  readonly sharedPagesWritten?: bigint;
}

export interface RestoreStatistics {
  /** All times in microseconds. */
  readonly forkingUs: number;
  readonly restoreUs: number;
  readonly pagesCompared: bigint;
  readonly pagesSkippedCopyOnWrite: bigint;
  readonly pagesRestored?: bigint;
}

export interface Statistics {
  readonly dump?: DumpStatistics;
  readonly restore?: RestoreStatistics;
}

/** From stats-dump and stats-restore, as far as they are there. */
export async function readStatistics(images: ImageSet): Promise<Statistics> {
  const dump = (await images.entry('STATS', 'dump'))?.dump;
  const restore = (await images.entry('STATS', 'restore'))?.restore;
  return {
    ...(dump === undefined ? {} : { dump: dumpStatistics(dump) }),
    ...(restore === undefined ? {} : { restore: restoreStatistics(restore) }),
  };
}

function dumpStatistics(dump: DumpStatsEntry): DumpStatistics {
  const { shpages_scanned, shpages_skipped_parent, shpages_written } = dump;
  return {
    freezingUs: dump.freezing_time,
    frozenUs: dump.frozen_time,
    memoryDumpUs: dump.memdump_time,
    memoryWriteUs: dump.memwrite_time,
    pagesScanned: dump.pages_scanned,
    pagesSkippedParent: dump.pages_skipped_parent,
    pagesWritten: dump.pages_written,
    pagesLazy: dump.pages_lazy,
    ...(shpages_scanned === undefined ? {} : { sharedPagesScanned: shpages_scanned }),
    ...(shpages_skipped_parent === undefined ? {} : { sharedPagesSkippedParent: shpages_skipped_parent }),
    ...(shpages_written === undefined ? {} : { sharedPagesWritten: shpages_written }),
  };
}

function restoreStatistics(restore: RestoreStatsEntry): RestoreStatistics {
  const { pages_restored } = restore;
  return {
    forkingUs: restore.forking_time,
    restoreUs: restore.restore_time,
    pagesCompared: restore.pages_compared,
    pagesSkippedCopyOnWrite: restore.pages_skipped_cow,
    ...(pages_restored === undefined ? {} : { pagesRestored: pages_restored }),
  };
}
