import { readdir, readFile, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { ancestorsOf } from '../archive/chain.ts';
import {
  bad,
  CONFIG,
  checkSums,
  DELETED,
  IMAGES,
  LAYER,
  MANIFEST,
  type Manifest,
  NO_PARENT,
  parseManifest,
  SHM,
  SPEC,
  VERSION,
  VOLUMES,
} from '../archive/layout.ts';
import { archiveIn } from '../archive/oci.ts';
import { checkPod } from '../archive/pod.ts';
import { type ReadOptions, readArchive, type Unpacked } from '../archive/reader.ts';
import { checkEarlierPages } from '../criu/earlier.ts';
import { folderSource, type ImageSource } from '../criu/source.ts';
import { exists } from '../durable.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerConfig, PodSandboxConfig } from '../gen/cri.ts';
import type { RuntimeSpec } from '../runtime/cri.ts';
import { ImageFolder } from './images.ts';
import { unpackLayer } from './layer.ts';
import { PagesInPlace } from './pages-in-place.ts';
import type { Images } from './restore-container.ts';

/** Annotations of containerd (internal/cri/annotations). */
const CONTAINER_NAME = 'io.kubernetes.cri.container-name';
const IMAGE_NAME = 'io.kubernetes.cri.image-name';
/** Mounted into every container by the runtime itself. */
const RUNTIMES_OWN = new Set(['/etc/hosts', '/etc/hostname', '/etc/resolv.conf', '/dev/shm', '/dev/termination-log']);
/** Of what is free, for what is unpacked. */
const SHARE = 0.9;

/**
 * A checkpoint that was read and found sound: a folder as it is, an archive unpacked into memory until it is disposed, but
 * for its pages where they can stay in it: those are looked at before anything that has them runs.
 */
export class Saved implements Images, AsyncDisposable {
  readonly manifest: Manifest;
  /** What was passed over, and the like. */
  readonly warnings: readonly string[];
  readonly #folder: string;
  #pages: PagesInPlace | undefined;
  #owned: AsyncDisposable | undefined;

  private constructor(folder: string, manifest: Manifest, warnings: readonly string[]) {
    this.#folder = folder;
    this.manifest = manifest;
    this.warnings = warnings;
  }

  /** A checkpoint of one container. Errors: as for {@link openAll}; USAGE, for a pod's, and for one without memory. */
  static async open(node: Node, operation: string, path: string, options: ReadOptions): Promise<Saved> {
    const all = await Saved.openAll(node, operation, path, options);
    const [saved] = all;
    if (saved !== undefined && all.length === 1 && saved.manifest.cold !== true) return saved;
    await saved?.[Symbol.asyncDispose]();
    if (all.length === 1)
      throw new GantryError('USAGE', `${path} holds files only: nothing can be restored from it`, {
        hint: 'gantry restore starts a pod with these files anew',
      });
    throw new GantryError('USAGE', `${path} is the checkpoint of a pod with ${all.length} containers`, {
      hint: 'gantry restore puts them into a new sandbox together',
    });
  }

  /**
   * All containers of a checkpoint; disposing the first disposes all.
   * Errors: NOT_FOUND, BAD_ARCHIVE, UNSUPPORTED, NO_SPACE, USAGE for one that is encrypted.
   */
  static async openAll(
    node: Node,
    operation: string,
    path: string,
    options: ReadOptions,
  ): Promise<[Saved, ...Saved[]]> {
    const found = await stat(path).catch((error: unknown) => {
      throw new GantryError('NOT_FOUND', `there is no checkpoint ${path}: ${messageOf(error)}`, { cause: error });
    });
    const archive = found.isDirectory() ? await archiveIn(path) : path;
    if (archive === undefined) return [await Saved.#inFolder(path)];
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(await ImageFolder.make(node, operation, 'target'));
    const { bavail, bsize } = await statfs(folder.path);
    const limit = bavail * bsize * SHARE;
    const read = await readArchive(archive, folder.path, { leavesPages: true, ...options, limit });
    const { containers, manifest } = read;
    if (containers.size > 0) {
      const texts = [...containers].map(([name, one]) => [name, one.manifest ?? ''] as const);
      checkPod(manifest ?? '', path, new Map(texts));
    }
    const parts: [where: string, folder: string, read: Unpacked][] = [...containers].map(([name, one]) => [
      `${path}: ${name}`,
      join(folder.path, name),
      one,
    ]);
    if (parts.length === 0) parts.push([path, folder.path, read]);
    const all: Saved[] = [];
    // They are read in the order in which they will be restored.
    let before: Promise<unknown> = Promise.resolve();
    for (const [where, into, one] of parts) {
      const saved = await Saved.#from(where, into, one);
      if (one.left.size > 0) {
        const { members } = saved.manifest;
        const isKnown = one.manifest !== undefined;
        const pages = await PagesInPlace.prepare(archive, into, one.left, isKnown ? members : undefined, before);
        before = pages.verified;
        saved.#pages = stack.use(pages);
      }
      all.push(saved);
    }
    const [first, ...others] = all as [Saved, ...Saved[]];
    first.#owned = stack.move();
    return [first, ...others];
  }

  /** Of its parents, if it has any, only the memory is of use: all of that is to be there. */
  static async #inFolder(path: string): Promise<Saved> {
    const manifest = await manifestIn(path);
    const ancestors = await ancestorsOf(path, manifest);
    if (ancestors.length > 0) {
      const folders = [path, ...ancestors.map(({ folder }) => folder)];
      const chain = folders.reduceRight<ImageSource | undefined>(
        (parent, folder) => ({ ...folderSource(join(folder, IMAGES)), parent }),
        undefined,
      );
      if (chain !== undefined) await checkEarlierPages(chain);
    }
    return new Saved(path, manifest, []);
  }

  static async #from(path: string, folder: string, { sums, manifest, ignored, left }: Unpacked): Promise<Saved> {
    if (!sums.has(SPEC) && manifest === undefined) throw bad(path, `it has neither ${MANIFEST} nor ${SPEC}`);
    const warnings = ignored.map((name) => `${name} has no meaning here, and was left out`);
    if (manifest === undefined) {
      warnings.push('it was not made by gantry: nothing says whether it is as it was made');
      return new Saved(folder, await foreignManifest(path, folder), warnings);
    }
    const parsed = parseManifest(manifest, path);
    if (parsed.parent !== undefined) throw bad(path, NO_PARENT);
    checkSums(path, parsed, sums, left);
    return new Saved(folder, parsed, warnings);
  }

  /** When a restore may begin. */
  async near(): Promise<void> {
    await this.#pages?.near;
  }

  /** Before anything of it runs. Errors: BAD_ARCHIVE. */
  async verified(): Promise<void> {
    await this.#pages?.verified;
  }

  /** Of CRIU's images. */
  get images(): string {
    return join(this.#folder, IMAGES);
  }

  get config(): ContainerConfig {
    return ContainerConfig.decode(Buffer.from(this.manifest.container.config, 'base64'));
  }

  get sandboxConfig(): PodSandboxConfig {
    return PodSandboxConfig.decode(Buffer.from(this.manifest.sandbox.config, 'base64'));
  }

  /** Puts the files that the container had written into another one, which was not started yet. */
  async unpackLayer(upper: string, allowsSetuid: boolean): Promise<void> {
    const file = join(this.#folder, LAYER);
    if (!(await exists(file))) return;
    const listed = join(this.#folder, DELETED);
    const deleted = (await exists(listed)) ? (JSON.parse(await readFile(listed, 'utf8')) as string[]) : [];
    await unpackLayer(file, upper, { allowsSetuid, deleted });
  }

  /** Fills a pod's /dev/shm, when it is empty: containers that run there may have put something into it. */
  async unpackShm(folder: string): Promise<void> {
    const file = join(this.#folder, SHM);
    if (!(await exists(file))) return;
    await unpackLayer(file, folder, { allowsSetuid: false, isPlain: true });
  }

  /** Fills emptyDirs that are empty: others have been filled with what another container of the pod had. */
  async unpackVolumes({ mounts }: ContainerConfig, allowsSetuid: boolean): Promise<void> {
    for (const { path, name } of this.manifest.volumes) {
      const file = join(this.#folder, VOLUMES, `${name}.tar`);
      const folder = mounts.find(({ containerPath }) => containerPath === path)?.hostPath ?? '';
      if (name === '' || folder === '' || !(await exists(file)) || !(await exists(folder))) continue;
      if ((await readdir(folder)).length === 0) await unpackLayer(file, folder, { allowsSetuid, isPlain: true });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned?.[Symbol.asyncDispose]();
  }
}

/** Of a checkpoint in a folder. Errors: NOT_FOUND, BAD_ARCHIVE, UNSUPPORTED. */
export async function manifestIn(folder: string): Promise<Manifest> {
  const text = await readFile(join(folder, MANIFEST), 'utf8').catch((error: unknown) => {
    throw new GantryError('NOT_FOUND', `${folder} holds no checkpoint (no ${MANIFEST})`, { cause: error });
  });
  if (!(await exists(join(folder, IMAGES)))) {
    throw new GantryError('NOT_FOUND', `${folder} holds no checkpoint (no folder ${IMAGES})`);
  }
  return parseManifest(text, folder);
}

/** What can be known of a container from what Podman, CRI-O and containerd write. */
async function foreignManifest(path: string, folder: string): Promise<Manifest> {
  const read = async <T>(name: string): Promise<T> => {
    try {
      return JSON.parse(await readFile(join(folder, name), 'utf8')) as T;
    } catch (error) {
      throw bad(path, `its ${name} cannot be read: ${messageOf(error)}`);
    }
  };
  const spec = await read<RuntimeSpec>(SPEC);
  const dumped = await read<{ id?: string; name?: string; rootfsImageRef?: string; rootfsImageName?: string }>(CONFIG);
  const annotations = spec.annotations ?? {};
  const name = annotations[CONTAINER_NAME] ?? dumped.name ?? '';
  const image = dumped.rootfsImageName ?? annotations[IMAGE_NAME] ?? '';
  const volumes = (spec.mounts ?? []).filter(
    ({ destination, type, source }) => type === 'bind' && source !== '' && !RUNTIMES_OWN.has(destination),
  );
  if (volumes.length > 0) {
    const paths = volumes.map(({ destination }) => destination).join(', ');
    throw new GantryError('NOT_FITTING', `${path} has mounts of which only its runtime knows: ${paths}`, {
      hint: 'gantry swap --checkpoint puts it into a container that has them',
    });
  }
  const { args = [], env = [], cwd = '' } = spec.process ?? {};
  const config = ContainerConfig.fromPartial({
    metadata: { name, attempt: 0 },
    image: { image },
    command: [...args],
    workingDir: cwd,
    envs: env.map((variable) => {
      const [key = '', ...value] = variable.split('=');
      return { key, value: Buffer.from(value.join('=')) };
    }),
    labels: { 'io.kubernetes.container.name': name },
    logPath: `${name}/0.log`,
    linux: { securityContext: { namespaceOptions: { pid: 1 } } },
  });
  return {
    version: VERSION,
    created: '',
    node: { name: '', architecture: '', kernel: '' },
    criu: '',
    container: { id: dumped.id ?? '', name, config: base64(ContainerConfig.encode(config).finish()) },
    sandbox: { id: '', name: '', namespace: '', runtimeHandler: '', config: '', addresses: [] },
    image: { name: image, id: dumped.rootfsImageRef ?? image },
    volumes: [],
    // CRIU takes what is in its images; without connections this changes nothing.
    tcp: 'established',
    processes: 1,
    members: {},
  };
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64');
}
