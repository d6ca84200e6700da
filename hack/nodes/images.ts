import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, codeKey } from './cached.ts';
import { LabError } from './failure.ts';
import { type Image, ociArchive } from './oci.ts';
import { cachedImages } from './paths.ts';
import { run } from './program.ts';
import { keyOf, type Suite } from './suites.ts';
import type { Entry } from './tar.ts';

export const IMAGES = {
  pause: 'gantry.lab/pause:1',
  busybox: 'gantry.lab/busybox:1',
  redis: 'gantry.lab/redis:1',
  tools: 'gantry.lab/tools:1',
} as const;

export type ImageName = keyof typeof IMAGES;
export const IMAGE_NAMES = Object.keys(IMAGES) as ImageName[];

/** The lab's images as archives, made from the programs in a suite's root; cached until root or code changes. */
export async function ensureImages(suite: Suite, root: string, signal: AbortSignal): Promise<string> {
  const folder = cachedImages(suite.name);
  const key = `${keyOf(suite)} ${await codeKey('images.ts')}`;
  await cached({ folder, key, title: `making the images of ${suite.name}`, signal }, async (fresh) => {
    for (const image of [await pause(root), await busybox(root), await redis(root), await tools(root)]) {
      signal.throwIfAborted();
      const name = IMAGE_NAMES.find((candidate) => IMAGES[candidate] === image.reference);
      await writeFile(join(fresh, `${name}.tar`), ociArchive(image));
    }
  });
  return folder;
}

async function pause(root: string): Promise<Image> {
  return {
    reference: IMAGES.pause,
    files: withFolders([
      await program(root, '/usr/bin/catatonit', 'pause'),
      ...(await libraries(root, '/usr/bin/catatonit')),
    ]),
    config: { Env: [PATH], Entrypoint: ['/pause', '-P'], WorkingDir: '/' },
  };
}

async function busybox(root: string): Promise<Image> {
  return {
    reference: IMAGES.busybox,
    files: withFolders(await busyboxFiles(root)),
    config: { Env: [PATH], Cmd: ['sh'], WorkingDir: '/' },
  };
}

async function redis(root: string): Promise<Image> {
  const server = '/usr/bin/redis-server';
  const client = '/usr/bin/redis-cli';
  return {
    reference: IMAGES.redis,
    files: withFolders([
      ...(await busyboxFiles(root)),
      await program(root, server, 'usr/bin/redis-server'),
      await program(root, client, 'usr/bin/redis-cli'),
      ...(await libraries(root, server, client)),
      { path: 'data', type: 'folder' },
    ]),
    config: {
      Env: [PATH],
      // Open to the lab's network and without files: a test that wants otherwise gives its own arguments.
      Entrypoint: ['redis-server'],
      Cmd: [
        '--save',
        '',
        '--appendonly',
        'no',
        '--protected-mode',
        'no',
        '--bind',
        '0.0.0.0',
        '-::*',
        '--dir',
        '/data',
      ],
      WorkingDir: '/data',
    },
  };
}

/** Perl without its modules: small programs of tests make system calls with it. */
async function tools(root: string): Promise<Image> {
  const perl = '/usr/bin/perl';
  return {
    reference: IMAGES.tools,
    files: withFolders([
      ...(await busyboxFiles(root)),
      await program(root, perl, 'usr/bin/perl'),
      ...(await libraries(root, perl)),
    ]),
    config: { Env: [PATH], Cmd: ['sh'], WorkingDir: '/' },
  };
}

export const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Busybox under all its names, users, and what a container expects to be there. */
export async function busyboxFiles(root: string): Promise<Entry[]> {
  const applets = (await run('chroot', [root, 'busybox', '--list'])).split('\n').filter((name) => name !== 'busybox');
  return [
    await program(root, '/bin/busybox', 'bin/busybox'),
    ...applets.map((name): Entry => ({ path: `bin/${name}`, type: 'link', target: 'busybox' })),
    text('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n'),
    text('srv/old', 'a file of the image\n'),
    text('etc/group', 'root:x:0:\nnogroup:x:65534:\n'),
    { path: 'root', type: 'folder', mode: 0o700 },
    { path: 'tmp', type: 'folder', mode: 0o1777 },
  ];
}

/** The shared libraries of programs, at the paths where the dynamic linker looks for them; none for static programs. */
export async function libraries(root: string, ...programs: string[]): Promise<Entry[]> {
  const paths = new Set<string>();
  for (const path of programs) {
    const listed = await run('chroot', [root, 'sh', '-c', 'ldd "$1" || true', 'sh', path]);
    for (const [, library] of listed.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)) if (library) paths.add(library);
    if (/not found/.test(listed)) throw new LabError(`${path} lacks a library in ${root}:\n${listed}`);
  }
  return Promise.all([...paths].map((path) => program(root, path, path.slice(1))));
}

/** A program of a root, for an image. */
export async function program(root: string, path: string, to: string): Promise<Entry> {
  // Resolved inside the root: an absolute link there would otherwise lead to the host's file.
  const real = (await run('chroot', [root, 'readlink', '-f', path])).trim();
  return { path: to, type: 'file', content: await readFile(join(root, real)), mode: 0o755 };
}

function text(path: string, content: string): Entry {
  return { path, type: 'file', content: Buffer.from(content) };
}

/** Adds the folders that entries lie in, and those that a runtime mounts on. */
export function withFolders(entries: readonly Entry[]): Entry[] {
  const all = new Map<string, Entry>();
  for (const path of ['dev', 'etc', 'proc', 'sys']) all.set(path, { path, type: 'folder' });
  for (const entry of entries) {
    const parts = entry.path.split('/').slice(0, -1);
    parts.forEach((_, index) => {
      const path = parts.slice(0, index + 1).join('/');
      if (!all.has(path)) all.set(path, { path, type: 'folder' });
    });
    all.set(entry.path, entry);
  }
  return [...all.values()];
}
