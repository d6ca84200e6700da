import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { folderSource } from './source.ts';

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'criu-source-'));
  await mkdir(join(folder, 'checkpoint'));
  await writeFile(join(folder, 'checkpoint', 'pages-1.img'), 'abcdef');
  await writeFile(join(folder, 'stats-dump'), 'statistics');
});
afterAll(() => rm(folder, { recursive: true }));

test('a folder has names and parts of files; what it lacks comes from the next one', async () => {
  const source = folderSource(join(folder, 'checkpoint'), folder);
  expect((await source.names()).sort()).toEqual(['pages-1.img', 'stats-dump']);
  expect(String(await source.read('pages-1.img'))).toBe('abcdef');
  expect(String(await source.read('pages-1.img', 2, 3))).toBe('cde');
  expect(String(await source.read('pages-1.img', 5, 3))).toBe('f');
  expect(String(await source.read('pages-1.img', 9, 3))).toBe('');
  expect(String(await source.read('stats-dump'))).toBe('statistics');
});

test('what is nowhere is not found', async () => {
  await expect(folderSource(folder).read('core-1.img')).rejects.toMatchObject({ reason: 'NOT_FOUND' });
  await expect(folderSource(join(folder, 'none')).names()).rejects.toMatchObject({ reason: 'NOT_FOUND' });
});

test('a link out of the folder is not followed, a FIFO not waited for', async () => {
  await symlink('/etc/hostname', join(folder, 'pages-2.img'));
  await execa('mkfifo', [join(folder, 'pages-3.img')]);
  for (const name of ['pages-2.img', 'pages-3.img']) {
    expect(await folderSource(folder).names()).not.toContain(name);
    await expect(folderSource(folder).read(name)).rejects.toMatchObject({ reason: 'BAD_ARCHIVE' });
  }
});
