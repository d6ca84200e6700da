import { createHash } from 'node:crypto';
import { link, readdir, readFile, readlink, realpath, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, codeKey } from './cached.ts';
import { busyboxFiles, libraries, PATH, program, withFolders } from './images.ts';
import { isolated } from './isolated.ts';
import { removeTree } from './mounts.ts';
import { type Image, ociArchive } from './oci.ts';
import { cachedImages, REPO } from './paths.ts';
import { ensureRoot } from './root.ts';
import { keyOf, suiteNamed } from './suites.ts';
import type { Entry } from './tar.ts';

/** PostgreSQL, nginx and Python of Debian, and the Node that this repository runs on. */
export const PROGRAMS = 'gantry.lab/programs:1';

const packages = ['nginx', 'postgresql', 'python3-minimal'];

/**
 * The archive of {@link PROGRAMS}. It is large, so no lab has it from its start: who needs it imports it. Made the first
 * time that somebody asks, and cached until root, packages or code change.
 */
export async function ensurePrograms(signal: AbortSignal): Promise<string> {
  const suite = suiteNamed('forky');
  const root = await ensureRoot(suite, signal);
  const folder = cachedImages(`${suite.name}-programs`);
  const node = await realpath(join(REPO, 'node_modules/.bin/node'));
  const made = createHash('sha256')
    .update(`${keyOf(suite)} ${packages} ${(await stat(node)).size}`)
    .digest('hex');
  const key = `${made} ${await codeKey('programs.ts', 'images.ts')}`;
  const title = 'making the image of programs from packages (once, about half a minute)';
  await cached({ folder, key, title, signal }, async (fresh) => {
    const extended = join(fresh, 'root');
    await isolated(EXTEND, [root, extended, ...packages], {
      log: `${folder}.log`,
      what: `adding ${packages.join(', ')} to the root of ${suite.name}`,
      signal,
    });
    await link(node, join(extended, 'usr/bin/node'));
    await writeFile(join(fresh, 'programs.tar'), ociArchive(await programs(extended)));
    await removeTree(extended);
  });
  return join(folder, 'programs.tar');
}

// Of hard links: files of the root itself are not changed, others come beside them. No script of a package runs. Like
// debootstrap it does not mind the age of a mirror.
const EXTEND = `
root=$1
extended=$2
shift 2
cp -al "$root" "$extended"
cp --remove-destination /etc/resolv.conf "$extended/etc/resolv.conf"
apt() { chroot "$extended" apt-get -qq -o Acquire::Check-Valid-Until=false "$@"; }
apt update
apt install --download-only --no-install-recommends -y "$@"
for package in "$extended"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$extended"; done
`;

async function programs(root: string): Promise<Image> {
  const postgres = await only(root, 'usr/lib/postgresql');
  const python = await only(root, 'usr/lib', /^python3\.\d+$/);
  const bin = `usr/lib/postgresql/${postgres}/bin`;
  const executables = [`/${bin}/postgres`, `/${bin}/initdb`, '/usr/sbin/nginx', `/usr/bin/${python}`, '/usr/bin/node'];
  const files = await Promise.all(executables.map((path) => program(root, path, path.slice(1))));
  return {
    reference: PROGRAMS,
    files: withFolders([
      ...(await busyboxFiles(root)),
      ...files,
      ...(await libraries(root, ...executables)),
      ...(await tree(root, `usr/lib/postgresql/${postgres}/lib`)),
      ...(await tree(root, `usr/share/postgresql/${postgres}`)),
      ...(await tree(root, `usr/lib/${python}`)),
      { path: 'usr/bin/python3', type: 'link', target: python },
    ]),
    config: { Env: [`${PATH}:/${bin}`], Cmd: ['sh'], WorkingDir: '/' },
  };
}

/** The version that a suite has is part of a path: the one name in a folder. */
async function only(root: string, folder: string, pattern = /^\d+$/): Promise<string> {
  const names = (await readdir(join(root, folder))).filter((name) => pattern.test(name));
  const [name] = names;
  if (name === undefined || names.length > 1) throw new Error(`/${folder} has ${names.join(', ') || 'none'}`);
  return name;
}

/** Everything below a folder, with its modes. */
async function tree(root: string, folder: string): Promise<Entry[]> {
  const found = await readdir(join(root, folder), { recursive: true, withFileTypes: true });
  const entries = found.map(async (one): Promise<Entry | undefined> => {
    const file = join(one.parentPath, one.name);
    const path = file.slice(root.length + 1);
    if (one.isSymbolicLink()) return { path, type: 'link', target: await readlink(file) };
    if (!one.isFile()) return undefined;
    const { mode } = await stat(file);
    return { path, type: 'file', content: await readFile(file), mode: mode & 0o777 };
  });
  return (await Promise.all(entries)).filter((entry) => entry !== undefined);
}
