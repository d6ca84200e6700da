import { readdir, readFile, readlink } from 'node:fs/promises';

/*
 * Processes come and go while they are looked at: what is gone is read as empty.
 */

export async function textOf(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}

export async function linesOf(path: string): Promise<string[]> {
  return (await textOf(path)).split('\n').filter(Boolean);
}

export async function linkOf(path: string): Promise<string> {
  return readlink(path).catch(() => '');
}

export async function namesIn(path: string): Promise<string[]> {
  return readdir(path).catch(() => []);
}
