import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GantryError } from '../errors.ts';
import { smallCheckpoint } from './checkpoint.fixture.ts';
import { encodeEntry, encodeImage, u32 } from './encode.ts';
import { decodeImage, MAX_ENTRY_BYTES } from './image.ts';
import { core } from './images.fixture.ts';
import { COMMON_MAGIC, KINDS, kindOf, SERVICE_MAGIC } from './kinds.ts';

/** Whatever is thrown must be a GantryError of this reason, with a message that fits. */
function expectBad(act: () => unknown, message: RegExp): void {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(GantryError);
    expect(error).toMatchObject({ reason: 'BAD_ARCHIVE', message: expect.stringMatching(message) });
    return;
  }
  throw new Error('nothing was thrown');
}

describe('an image', () => {
  test('gives numbers of 64 bits as bigint, enums as names and lists as arrays', () => {
    const { kind, entries, extraBytes } = decodeImage(
      'core-1.img',
      core('redis', {}, { blk_sigset: 2n ** 64n - 1n }),
      'CORE',
    );
    expect({ kind, extraBytes }).toEqual({ kind: 'CORE', extraBytes: [0] });
    expect(entries[0]).toMatchObject({
      mtype: 'X86_64',
      tc: { comm: 'redis', blk_sigset: 2n ** 64n - 1n, sigactions: [] },
      thread_core: { seccomp_mode: 'filter' },
    });
  });

  test('has a head where its first entry differs', () => {
    const bytes = encodeImage('PAGEMAP', [{ vaddr: 4096n, compat_nr_pages: 1, flags: 4 }], { head: { pages_id: 3 } });
    expect(decodeImage('pagemap-1.img', bytes)).toEqual({
      kind: 'PAGEMAP',
      head: { pages_id: 3 },
      entries: [{ vaddr: 4096n, compat_nr_pages: 1, flags: 4 }],
      extraBytes: [0],
    });
  });

  test('of version 1.0 has only one magic number', () => {
    const bytes = encodeImage('FS', [{ cwd_id: 1, root_id: 2 }]).subarray(4);
    expect(decodeImage('fs-1.img', bytes).entries).toEqual([{ cwd_id: 1, root_id: 2 }]);
  });

  test('without entries is fine where there may be any number', () => {
    expect(decodeImage('files.img', encodeImage('FILES', [])).entries).toEqual([]);
    expectBad(() => decodeImage('fs-1.img', encodeImage('FS', [])), /fs-1\.img, byte 8: there is no entry/);
  });

  test('is told by its name', () => {
    expect(kindOf('tcp-stream-1f.img')).toEqual({ kind: 'TCP_STREAM', id: '1f' });
    expect(kindOf('pagemap-shmem-12.img')).toEqual({ kind: 'SHMEM_PAGEMAP', id: '12' });
    expect(kindOf('stats-dump')).toEqual({ kind: 'STATS', id: 'dump' });
    for (const raw of ['pages-1.img', 'tmpfs-12.tar.gz.img', 'core-1ximg', 'xcore-1.img', 'core-.img', 'dump.log']) {
      expect(kindOf(raw), raw).toBeUndefined();
    }
  });
});

describe('raw bytes behind an entry', () => {
  const pipe = (bytes: number) => ({ pipe_id: 1, bytes });
  const desc = { key: 1, uid: 0, gid: 0, cuid: 0, cgid: 0, mode: 0o600, id: 0 };

  test.each([
    [
      'pipes-data.img',
      encodeImage('PIPES_DATA', [pipe(3), pipe(2)], { extras: [Buffer.from('abc'), Buffer.from('de')] }),
      [3, 2],
    ],
    ['sk-queues.img', encodeImage('SK_QUEUES', [{ id_for: 1, length: 4 }], { extras: [Buffer.alloc(4)] }), [4]],
    ['ipcns-sem-9.img', encodeImage('IPCNS_SEM', [{ desc, nsems: 3 }], { extras: [Buffer.alloc(8)] }), [8]],
    ['ipcns-shm-9.img', encodeImage('IPCNS_SHM', [{ desc, size: 5n }], { extras: [Buffer.alloc(8)] }), [8]],
    ['ipcns-shm-9.img', encodeImage('IPCNS_SHM', [{ desc, size: 4096n, in_pagemaps: true }]), [0]],
    [
      'bpfmap-data.img',
      encodeImage('BPFMAP_DATA', [{ map_id: 1, keys_bytes: 4, values_bytes: 8, count: 1 }], {
        extras: [Buffer.alloc(12)],
      }),
      [12],
    ],
  ])('are counted: %s', (file, bytes, extraBytes) => {
    expect(decodeImage(file, bytes)).toMatchObject({ extraBytes });
  });

  test('messages of a queue are passed over one by one', () => {
    const queued = Buffer.concat([
      encodeEntry('ipc_msg', { mtype: 1n, msize: 3 }, Buffer.alloc(8)),
      encodeEntry('ipc_msg', { mtype: 2n, msize: 8 }, Buffer.alloc(8)),
    ]);
    const entries = [{ desc, qbytes: 100, qnum: 2 }];
    expect(decodeImage('ipcns-msg-9.img', encodeImage('IPCNS_MSG', entries, { extras: [queued] })).extraBytes).toEqual([
      queued.length,
    ]);
  });

  test('of a deleted file are the rest, or in parts', () => {
    const owner = { uid: 0, gid: 0, mode: 0o100600 };
    const whole = Buffer.concat([encodeImage('GHOST_FILE', [], { head: owner }), Buffer.alloc(7)]);
    expect(decodeImage('ghost-file-1.img', whole)).toMatchObject({ head: owner, entries: [], extraBytes: [7] });
    const parts = encodeImage('GHOST_FILE', [{ len: 5n, off: 0n }], {
      head: { ...owner, chunks: true },
      extras: [Buffer.alloc(5)],
    });
    expect(decodeImage('ghost-file-1.img', parts)).toMatchObject({ entries: [{ len: 5n, off: 0n }], extraBytes: [5] });
  });
});

describe('a damaged image is refused, with file, place and reason:', () => {
  const whole = encodeImage('FS', [{ cwd_id: 1, root_id: 2 }]);
  const [common, magic] = [u32(COMMON_MAGIC), u32(KINDS.FS.magic)];
  const enormous = Buffer.concat([common, magic, u32(MAX_ENTRY_BYTES + 1)]);

  test.each([
    ['of another kind', encodeImage('MM', []), /^fs-1\.img, byte 0: magic number 0x57492820, FS has 0x51403912$/],
    [
      'with the other first magic number',
      Buffer.concat([u32(SERVICE_MAGIC), magic]),
      /byte 0: magic number 0x55105940/,
    ],
    ['empty', Buffer.alloc(0), /byte 0: magic number has 4 bytes, 0 are left/],
    ['an entry that is cut off', whole.subarray(0, -1), /byte 12: an entry has 4 bytes, 3 are left/],
    ['a length that is cut off', Buffer.concat([common, magic, Buffer.alloc(2)]), /byte 8: length of an entry has 4/],
    ['an enormous entry', enormous, /byte 12: an entry has 67108865 bytes, more than 67108864/],
    ['an entry that lacks a field', Buffer.concat([common, magic, u32(0)]), /byte 12: no fs_entry: missing required/],
    [
      'an entry too many',
      encodeImage('FS', [
        { cwd_id: 1, root_id: 2 },
        { cwd_id: 1, root_id: 2 },
      ]),
      /a second entry/,
    ],
  ])('%s', (_, bytes, message) => {
    expectBad(() => decodeImage('fs-1.img', bytes), message);
  });

  test('data of a pipe that are not there', () => {
    const bytes = encodeImage('PIPES_DATA', [{ pipe_id: 1, bytes: 0xffffffff }]);
    expectBad(() => decodeImage('pipes-data.img', bytes), /data of a pipe has 4294967295 bytes, 0 are left/);
  });

  test('messages of a queue that are not there', () => {
    const desc = { key: 1, uid: 0, gid: 0, cuid: 0, cgid: 0, mode: 0o600, id: 0 };
    const bytes = encodeImage('IPCNS_MSG', [{ desc, qbytes: 100, qnum: 0xffffffff }]);
    expectBad(() => decodeImage('ipcns-msg-9.img', bytes), /size of a message of a queue/);
  });

  test('folders nested without end', () => {
    let folder = { dir_name: 'x', children: [] as object[] };
    for (let depth = 0; depth < 90; depth++) folder = { dir_name: 'x', children: [folder] };
    const deep = encodeImage('CGROUP', [{ controllers: [{ cnames: [], dirs: [folder] }] }]);
    expect(decodeImage('cgroup.img', deep).entries).toHaveLength(1);
    // Deeper than protobufjs writes: the length and the tag of a child, again and again.
    const bottomless = nested(2000);
    const bytes = Buffer.concat([u32(COMMON_MAGIC), u32(KINDS.CGROUP.magic), u32(bottomless.length), bottomless]);
    expectBad(() => decodeImage('cgroup.img', bytes), /no cgroup_entry/);
  });

  test('a file that is no image', () => {
    expectBad(() => decodeImage('pages-1.img', Buffer.alloc(4096)), /^pages-1\.img: no image of messages/);
  });
});

describe('whatever the bytes are, there is a result or a BAD_ARCHIVE', () => {
  const images = Object.entries(smallCheckpoint()).filter(([file]) => kindOf(file) !== undefined);
  const attempt = (file: string, bytes: Buffer) => {
    try {
      decodeImage(file, bytes);
    } catch (error) {
      expect(error, file).toBeInstanceOf(GantryError);
      expect((error as GantryError).reason).toBe('BAD_ARCHIVE');
    }
  };

  test('cut off at every byte', () => {
    for (const [file, bytes] of images) {
      for (let length = 0; length < bytes.length; length++) attempt(file, bytes.subarray(0, length));
    }
  });

  test('with bits that are wrong', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...images),
        fc.array(fc.tuple(fc.nat(), fc.nat(7)), { minLength: 1, maxLength: 8 }),
        ([file, bytes], flips) => {
          const damaged = Buffer.from(bytes);
          for (const [place, bit] of flips) {
            const at = place % damaged.length;
            damaged[at] = (damaged[at] ?? 0) ^ (1 << bit);
          }
          attempt(file, damaged);
        },
      ),
      { numRuns: 3000 },
    );
  });

  test('with anything behind the magic numbers', () => {
    const kinds = Object.values(KINDS).filter(({ file }) => !file.includes('inventory'));
    fc.assert(
      fc.property(fc.constantFrom(...kinds), fc.uint8Array({ maxLength: 200 }), (kind, rest) => {
        const first = u32('service' in kind ? SERVICE_MAGIC : COMMON_MAGIC);
        const file = kind.file.replace(/%[ux]/, '1').replace('%s', 'dump');
        const length = u32(Math.max(0, rest.length - 1));
        attempt(file, Buffer.concat([first, u32(kind.magic), length, rest]));
      }),
      { numRuns: 3000 },
    );
  });
});

/** A cgroup_entry whose folder holds a folder that holds a folder … */
function nested(depth: number): Buffer {
  let folder = Buffer.from([0x0a, 1, 0x78]);
  for (let level = 0; level < depth; level++)
    folder = Buffer.concat([Buffer.from([0x0a, 1, 0x78, 0x12]), varint(folder.length), folder]);
  const controller = Buffer.concat([Buffer.from([0x12]), varint(folder.length), folder]);
  return Buffer.concat([Buffer.from([0x12]), varint(controller.length), controller]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 128) return Buffer.from([...bytes, rest]);
    bytes.push((rest & 127) | 128);
  }
}
