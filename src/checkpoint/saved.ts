import { readdir, readFile, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import {
  bad,
  CONFIG,
  checkSums,
  DELETED,
  IMAGES,
  LAYER,
  MANIFEST,
  type Manifest,
  parseManifest,
  SHM,
  SPEC,
  VERSION,
  VOLUMES,
} from '../archive/layout.ts';
import { checkPod } from '../archive/pod.ts';
import { type ReadOptions, readArchive, type Unpacked } from '../archive/reader.ts';
import { exists } from '../durable.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerConfig, PodSandboxConfig } from '../gen/cri.ts';
import type { RuntimeSpec } from '../runtime/cri.ts';
import { ImageFolder } from './images.ts';
import { unpackLayer } from './layer.ts';

/** Annotations of containerd (internal/cri/annotations). */
const CONTAINER_NAME = 'io.kubernetes.cri.container-name';
const IMAGE_NAME = 'io.kubernetes.cri.image-name';
/** Mounted into every container by the runtime itself. */
const RUNTIMES_OWN = new Set(['/etc/hosts', '/etc/hostname', '/etc/resolv.conf', '/dev/shm', '/dev/termination-log']);
/** Of what is free, for what is unpacked. */
const SHARE = 0.9;

/** A checkpoint that was read and found sound: a folder as it is, an archive unpacked into memory until it is disposed. */
export class Saved implements AsyncDisposable {
  readonly manifest: Manifest;
  /** What was passed over, and the like. */
  readonly warnings: readonly string[];
  readonly #folder: string;
  readonly #owned: ImageFolder | undefined;

  private constructor(folder: string, manifest: Manifest, warnings: readonly string[], owned?: ImageFolder) {
    this.#folder = folder;
    this.manifest = manifest;
    this.warnings = warnings;
    this.#owned = owned;
  }

  /** A checkpoint of one container. Errors: as for {@link openAll}; USAGE, for a pod's. */
  static async open(node: Node, operation: string, path: string, options: ReadOptions): Promise<Saved> {
    const all = await Saved.openAll(node, operation, path, options);
    const [saved] = all;
    if (saved !== undefined && all.length === 1) return saved;
    await saved?.[Symbol.asyncDispose]();
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
    if (found.isDirectory()) return [new Saved(path, await manifestIn(path), [])];
    const folder = await ImageFolder.make(node, operation, 'target');
    try {
      const { bavail, bsize } = await statfs(folder.path);
      const read = await readArchive(path, folder.path, { ...options, limit: bavail * bsize * SHARE });
      const { containers, manifest } = read;
      if (containers.size === 0) return [await Saved.#from(path, folder.path, read, folder)];
      const texts = [...containers].map(([name, one]) => [name, one.manifest ?? ''] as const);
      checkPod(manifest ?? '', path, new Map(texts));
      const all: Saved[] = [];
      for (const [name, one] of containers)
        all.push(
          await Saved.#from(`${path}: ${name}`, join(folder.path, name), one, all.length === 0 ? folder : undefined),
        );
      return all as [Saved, ...Saved[]];
    } catch (error) {
      await folder[Symbol.asyncDispose]();
      throw error;
    }
  }

  static async #from(path: string, folder: string, read: Unpacked, owned?: ImageFolder): Promise<Saved> {
    const { sums, manifest, ignored } = read;
    if (!sums.has(SPEC) && manifest === undefined) throw bad(path, `it has neither ${MANIFEST} nor ${SPEC}`);
    const warnings = ignored.map((name) => `${name} has no meaning here, and was left out`);
    if (manifest === undefined) {
      warnings.push('it was not made by gantry: nothing says whether it is as it was made');
      return new Saved(folder, await foreignManifest(path, folder), warnings, owned);
    }
    const parsed = parseManifest(manifest, path);
    checkSums(path, parsed, sums);
    return new Saved(folder, parsed, warnings, owned);
  }

  /** Leaves out what all containers of a pod have in common and one of them has brought back already. */
  async forgetShared(): Promise<void> {
    for (const name of await readdir(this.images))
      if (/^ipcns-(shm|sem|msg)-/.test(name)) await rm(join(this.images, name));
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

async function manifestIn(folder: string): Promise<Manifest> {
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
