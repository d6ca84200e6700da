import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { COMMON_MAGIC, fileOf, KINDS, kindOf, SERVICE_MAGIC } from './kinds.ts';
import { messageType } from './messages.ts';

const PYCRIU = join(import.meta.dirname, '../../.lab/pycriu/usr/lib/python3/dist-packages/pycriu/images');
/** Two images share a magic number with another, and upstream's table has it once. */
const SHARED = new Set(['SHMEM_PAGEMAP', 'PSIGNAL']);
/** Numbers that begin no image of messages. */
const NOT_IMAGES = ['CRTOOLS_IMAGES_V1_1', 'IMG_COMMON', 'IMG_SERVICE', 'KDAT'];

describe.runIf(existsSync(PYCRIU))("CRIU's own tables", () => {
  test('have the same magic numbers', () => {
    const magic = readFileSync(join(PYCRIU, 'magic.py'), 'latin1');
    const theirs = new Map(
      [...magic.matchAll(/^by_name\['(\w+)'\] = (\d+)$/gm)].map(([, name = '', value]) => [name, Number(value)]),
    );
    expect(theirs.get('IMG_COMMON')).toBe(COMMON_MAGIC);
    expect(theirs.get('IMG_SERVICE')).toBe(SERVICE_MAGIC);
    for (const name of NOT_IMAGES) theirs.delete(name);
    const ours = Object.entries(KINDS).filter(([kind]) => !SHARED.has(kind));
    expect(Object.fromEntries(ours.map(([kind, { magic }]) => [kind, magic]))).toEqual(Object.fromEntries(theirs));
  });

  test('have the same messages', () => {
    const handlers = readFileSync(join(PYCRIU, 'images.py'), 'latin1');
    const theirs = [...handlers.matchAll(/^ {4}'(\w+)': entry_handler\(pb\.(\w+)/gm)];
    expect(theirs.length).toBeGreaterThan(50);
    // It has one for an image that no CRIU has ever written: memfds are in files.img.
    const written = theirs.filter(([, kind]) => kind !== 'MEMFD_FILE');
    for (const [, kind = '', message] of written)
      expect(KINDS[kind as keyof typeof KINDS]?.message, kind).toBe(message);
  });
});

test('every message of the table is defined', () => {
  for (const kind of Object.values(KINDS)) {
    expect(messageType(kind.message).fieldsArray.length).toBeGreaterThan(0);
    if ('head' in kind) expect(messageType(kind.head).fieldsArray.length).toBeGreaterThan(0);
  }
});

test('a file has one kind, whose name it has', () => {
  expect(fileOf('TCP_STREAM', 0x1f)).toBe('tcp-stream-1f.img');
  for (const kind of Object.keys(KINDS) as (keyof typeof KINDS)[]) {
    const id = kind === 'STATS' ? 'dump' : KINDS[kind].file.includes('%') ? '12' : '';
    expect(kindOf(fileOf(kind, id))).toEqual({ kind, id });
  }
});
