import { stat } from 'node:fs/promises';
import type { Mount } from './mounts.ts';
import { linesOf, linkOf, namesIn } from './read.ts';

/** File systems whose files are elsewhere. */
const REMOTE = /^(nfs|cifs|smb|ceph|fuse|9p|glusterfs|lustre|afs|gpfs|ocfs2|orangefs|virtiofs)/;

/** An open file of a process. */
export interface Descriptor {
  readonly pid: number;
  /** A number, "cwd" or "exe". */
  readonly fd: string;
  /** As the kernel tells it: a path, socket:[1], anon_inode:[eventfd]. */
  readonly link: string;
  /** Of what has a path, and lies on this node. */
  readonly file?: FileFacts;
  /** Watches of inotify, marks of fanotify. */
  readonly watches?: number;
}

export interface FileFacts {
  readonly kind: 'file' | 'folder' | 'device' | 'other';
  readonly inode: number;
  /** Of the file system that it is on, and of a device itself: "major:minor". */
  readonly on: string;
  readonly device: string;
  readonly links: number;
  readonly bytes: number;
  readonly mountId: number;
  /** Lines of /proc/locks, of locks that are held through this descriptor. */
  readonly locks: readonly string[];
}

/**
 * @param mounts of the process: a file on a server that does not answer is not asked for, whoever waits for that waits
 * for ever, and the agent with it
 */
export async function descriptorsOf(pid: number, mounts: readonly Mount[]): Promise<Descriptor[]> {
  const remote = new Set(mounts.filter(({ fileSystem }) => REMOTE.test(fileSystem)).map(({ id }) => id));
  const numbers = await namesIn(`/proc/${pid}/fd`);
  const places = [...numbers.map((fd) => [fd, `fd/${fd}`] as const), ['cwd', 'cwd'] as const, ['exe', 'exe'] as const];
  const all = await Promise.all(places.map(([fd, path]) => descriptorOf(pid, fd, path, remote)));
  return all.filter((one) => one !== undefined);
}

async function descriptorOf(
  pid: number,
  fd: string,
  path: string,
  remote: ReadonlySet<number>,
): Promise<Descriptor | undefined> {
  const link = await linkOf(`/proc/${pid}/${path}`);
  if (link === '') return undefined;
  const base = { pid, fd, link };
  if (/^anon_inode:.?(inotify|fanotify)/.test(link)) {
    const watches = (await linesOf(`/proc/${pid}/fdinfo/${fd}`)).filter((line) =>
      /^(ino|fano)tify (wd|ino|mnt|sdev)/.test(line),
    );
    return { ...base, watches: watches.length };
  }
  if (!link.startsWith('/') || path === fd) return base;
  const info = await linesOf(`/proc/${pid}/fdinfo/${fd}`);
  const mountId = Number(info.find((line) => line.startsWith('mnt_id:'))?.slice(7) ?? 0);
  const file = remote.has(mountId) ? undefined : await stat(`/proc/${pid}/${path}`).catch(() => undefined);
  if (file === undefined) return base;
  const isDevice = file.isCharacterDevice() || file.isBlockDevice();
  return {
    ...base,
    file: {
      kind: isDevice ? 'device' : file.isFile() ? 'file' : file.isDirectory() ? 'folder' : 'other',
      inode: file.ino,
      on: deviceName(file.dev),
      device: isDevice ? deviceName(file.rdev) : '',
      links: file.nlink,
      bytes: file.blocks * 512,
      mountId,
      locks: info.flatMap((line) => (line.startsWith('lock:') ? [line.slice(5).trim()] : [])),
    },
  };
}

/** Pure: as makedev(3) of glibc packs them. */
export function deviceName(packed: number): string {
  const value = BigInt(packed);
  const major = ((value >> 8n) & 0xfffn) | ((value >> 32n) & ~0xfffn);
  const minor = (value & 0xffn) | ((value >> 12n) & ~0xffn & 0xffffff00n);
  return `${major}:${minor}`;
}
