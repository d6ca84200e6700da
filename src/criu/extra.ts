import type { Cursor } from './cursor.ts';
import type { EntryOf, HeadOf, Kind } from './kinds.ts';
import { decodeMessage } from './messages.ts';

type Skip<K extends Kind> = (cursor: Cursor, entry: EntryOf<K>, head: HeadOf<K> | undefined) => void;

/** Raw bytes that follow an entry: what was in a pipe, a queue, a deleted file. As in pycriu's images.py. */
const EXTRA: { readonly [K in Kind]?: Skip<K> } = {
  PIPES_DATA: (cursor, { bytes }) => cursor.skip(bytes, 'data of a pipe'),
  FIFO_DATA: (cursor, { bytes }) => cursor.skip(bytes, 'data of a FIFO'),
  SK_QUEUES: (cursor, { length }) => cursor.skip(length, 'a queued packet'),
  TCP_STREAM: (cursor, { inq_len, outq_len }) => cursor.skip(inq_len + outq_len, 'queues of a connection'),
  BPFMAP_DATA: (cursor, { keys_bytes, values_bytes }) => cursor.skip(keys_bytes + values_bytes, 'content of a BPF map'),
  IPCNS_SEM: (cursor, { nsems }) => cursor.skip(roundUp(2 * nsems, 8), 'a set of semaphores'),
  IPCNS_MSG: (cursor, { qnum }) => {
    for (let index = 0; index < qnum; index++) {
      const { msize } = decodeNested(cursor);
      cursor.skip(roundUp(msize, 8), 'a message of a queue');
    }
  },
  // CRIU since 3.0 keeps the segment's pages in pagemap-shmem-*.img instead.
  IPCNS_SHM: (cursor, { size, in_pagemaps }) => {
    if (!in_pagemaps) cursor.skip(roundUp(Number(size), 4), 'a segment of shared memory');
  },
  GHOST_FILE: (cursor, { len }) => cursor.skip(Number(len), 'a part of a deleted file'),
};

/** Passes over the raw bytes behind an entry and says how many they are. Errors: BAD_ARCHIVE. */
export function skipExtra<K extends Kind>(
  kind: K,
  cursor: Cursor,
  entry: EntryOf<K>,
  head: HeadOf<K> | undefined,
): number {
  const start = cursor.offset;
  (EXTRA[kind] as Skip<K> | undefined)?.(cursor, entry, head);
  return cursor.offset - start;
}

function decodeNested(cursor: Cursor) {
  const bytes = cursor.take(cursor.u32('size of a message of a queue'), 'head of a message of a queue');
  try {
    return decodeMessage('ipc_msg', bytes);
  } catch (error) {
    throw cursor.bad('head of a message of a queue cannot be decoded', error);
  }
}

function roundUp(size: number, to: number): number {
  return Math.ceil(size / to) * to;
}
