import { mkdtempDisposable, readdir, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { giveToSandbox, isReserved, keepReserved, release } from './ipam.ts';

const address = { family: 'inet' as const, local: '10.1.0.5', prefixLength: 16 };

it('keeps an address reserved when its sandbox goes, and frees it with the sandbox it comes home to', async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), 'ipam-'));
  const file = join(folder.path, '10.1.0.5');
  await writeFile(file, 'old-sandbox\r\neth0');
  await keepReserved(folder.path, [address], 'op');
  expect(await readFile(file, 'utf8')).toBe('gantry-op\r\neth0');
  await giveToSandbox(folder.path, [address], 'new-sandbox');
  expect(await readFile(file, 'utf8')).toBe('new-sandbox\r\neth0');
});

it("does not take an address from another pod's sandbox", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), 'ipam-'));
  await writeFile(join(folder.path, '10.1.0.5'), 'somebody\r\neth0');
  await giveToSandbox(folder.path, [address], 'new-sandbox');
  expect(await readFile(join(folder.path, '10.1.0.5'), 'utf8')).toBe('somebody\r\neth0');
});

it('makes no reservation where there is none, and does nothing without a folder', async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), 'ipam-'));
  await keepReserved(folder.path, [address], 'op');
  await keepReserved('', [address], 'op');
  expect(await readdir(folder.path)).toEqual([]);
});

it('frees what was kept for a migration, and nothing that has come home', async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), 'ipam-'));
  const file = join(folder.path, '10.1.0.5');
  await writeFile(file, 'gantry-op\r\neth0');
  expect(await isReserved(folder.path, [address], 'op')).toBe(true);
  expect(await isReserved(folder.path, [address], 'other')).toBe(false);
  await release(folder.path, [address], 'other');
  expect(await readdir(folder.path)).toEqual(['10.1.0.5']);
  await release(folder.path, [address], 'op');
  expect(await readdir(folder.path)).toEqual([]);
  await writeFile(file, 'sandbox\r\neth0');
  await release(folder.path, [address], 'op');
  expect(await readdir(folder.path)).toEqual(['10.1.0.5']);
});
