import { isAbsolute, normalize } from 'node:path';
import { GantryError, messageOf } from '../errors.ts';
import type { Sum } from './writer.ts';

/*
 * What an archive of one container holds. All names but the manifest's are those that checkpointctl, Podman, CRI-O and
 * containerd share (checkpointctl's lib/metadata); for a field of theirs see there.
 */

export const COMPRESSIONS = ['none', 'gzip', 'zstd'] as const;
export type Compression = (typeof COMPRESSIONS)[number];

/** CRIU's images, and the stdio that runc has noted beside them. */
export const IMAGES = 'checkpoint';
/** What the container has changed in its image: an OCI layer. */
export const LAYER = 'rootfs-diff.tar';
/** Files of the image that are no more; Podman's and CRI-O's way, beside a layer without whiteouts. */
export const DELETED = 'deleted.files';
/** /dev/shm of the pod. */
export const SHM = 'devshm-checkpoint.tar';
export const CONFIG = 'config.dump';
export const SPEC = 'spec.dump';
export const STATUS = 'status.dump';
/** containerd's own. */
export const CONTAINERD_STATUS = 'status';
export const LOG = 'container.log';
export const STATISTICS = 'stats-dump';
export const DUMP_LOG = 'dump.log';
/** Ours: what is in the archive, and whose state it is. The last member. */
export const MANIFEST = 'gantry.json';

/** CRIU's link to the images of the dump before; only in a folder, and only where the manifest says so. */
export const PARENT_LINK = `${IMAGES}/parent`;

const TOP = new Set([
  ...[LAYER, DELETED, SHM, CONFIG, SPEC, STATUS, CONTAINERD_STATUS, LOG, STATISTICS, DUMP_LOG, MANIFEST],
  ...['network.status', 'bind.mounts', 'restore.log', 'pod.options', 'pod.dump'],
]);
/** Contents of volumes, by their names. */
export const VOLUMES = 'volumes';
const IN_VOLUMES = /^volumes\/[a-z0-9][a-z0-9.-]{0,252}\.tar$/;
const IN_IMAGES = /^checkpoint\/[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

/** Whether a member may be unpacked under its name; those that others add are passed over. */
export function isKnown(name: string): boolean {
  return TOP.has(name) || (IN_IMAGES.test(name) && name !== PARENT_LINK) || IN_VOLUMES.test(name);
}

export interface Volume {
  /** In the container. */
  readonly path: string;
  /** On the node. */
  readonly hostPath: string;
  /** Of an emptyDir whose content is in the archive (of this container, or of another one of its pod); else "". */
  readonly name: string;
}

/** The checkpoint before, which has the pages that were not written since. */
export interface Parent {
  /** Relative path from the folder of this one to that of the parent. */
  readonly folder: string;
  /** Of the parent's manifest. */
  readonly sha256: string;
}

/** Why something is refused. */
export const NO_PARENT = 'it says that it has a parent, which only folders have';

/** What became of open TCP connections: there were none, they are in it, or they were left out and are closed. */
export type TcpMode = 'none' | 'established' | 'close';

/** Version 1 was that of folders without sums. */
export const VERSION = 2;

/** `gantry.json`. What is in base64 are messages of runtime.v1. */
export interface Manifest {
  readonly version: typeof VERSION;
  /** ISO 8601. */
  readonly created: string;
  readonly node: { readonly name: string; readonly architecture: string; readonly kernel: string };
  readonly criu: string;
  readonly container: {
    readonly id: string;
    readonly name: string;
    /** ContainerConfig. */
    readonly config: string;
  };
  readonly sandbox: {
    readonly id: string;
    readonly name: string;
    readonly namespace: string;
    readonly runtimeHandler: string;
    /** PodSandboxConfig. */
    readonly config: string;
    readonly addresses: readonly string[];
  };
  readonly image: { readonly name: string; readonly id: string };
  /** Mounts of the container, other than those that the runtime makes itself. */
  readonly volumes: readonly Volume[];
  readonly tcp: TcpMode;
  readonly processes: number;
  /** It has files only: whatever is made of it starts anew. Nothing but what a cold migration keeps. */
  readonly cold?: true;
  /** Only of a folder. */
  readonly parent?: Parent;
  /** Of every other member. */
  readonly members: Readonly<Record<string, Sum>>;
}

/** Errors: BAD_ARCHIVE; UNSUPPORTED, for a version not known here. @param where for the error */
export function parseManifest(text: string, where: string): Manifest {
  const manifest = parseVersioned<Manifest>(text, where);
  const isWhole =
    [manifest.container?.name, manifest.container?.config, manifest.image?.id, manifest.sandbox?.config].every(
      (field) => typeof field === 'string',
    ) &&
    typeof manifest.members === 'object' &&
    manifest.members !== null &&
    Array.isArray(manifest.volumes);
  if (!isWhole) throw bad(where, `its ${MANIFEST} lacks fields`);
  const { parent } = manifest;
  if (parent !== undefined && !isParent(parent)) throw bad(where, `its ${MANIFEST} does not say what its parent is`);
  return manifest;
}

function isParent(parent: unknown): parent is Parent {
  if (typeof parent !== 'object' || parent === null) return false;
  const { folder, sha256 } = parent as Record<string, unknown>;
  if (typeof folder !== 'string' || typeof sha256 !== 'string') return false;
  const isPlain = normalize(folder) === folder && !/^$|\/$|\0/.test(folder);
  return isPlain && !isAbsolute(folder) && /^[0-9a-f]{64}$/.test(sha256);
}

/** What every manifest has in common. Errors: BAD_ARCHIVE, UNSUPPORTED. */
export function parseVersioned<T extends { readonly version: number }>(text: string, where: string): T {
  let manifest: T;
  try {
    manifest = JSON.parse(text) as T;
  } catch (error) {
    throw bad(where, `its ${MANIFEST} is no JSON: ${messageOf(error)}`);
  }
  if (typeof manifest !== 'object' || manifest === null) throw bad(where, `its ${MANIFEST} is no object`);
  if (manifest.version !== VERSION) {
    throw new GantryError(
      'UNSUPPORTED',
      `${where} is a checkpoint of version ${manifest.version}; ${VERSION} is known here`,
    );
  }
  return manifest;
}

/**
 * Compares what was read with what the manifest says. Errors: BAD_ARCHIVE.
 * @param left what will be summed up later
 */
export function checkSums(
  where: string,
  { members }: Manifest,
  sums: ReadonlyMap<string, Sum>,
  left: ReadonlyMap<string, Pick<Sum, 'size'>> = new Map(),
): void {
  for (const [name, { size }] of left)
    if (members[name]?.size !== size) throw bad(where, `${name} is not what its manifest says`);
  for (const [name, sum] of sums) {
    if (name === MANIFEST) continue;
    const told = members[name];
    if (told === undefined) throw bad(where, `${name} is not in its manifest`);
    if (told.size !== sum.size || told.sha256 !== sum.sha256) throw bad(where, `${name} is not what its manifest says`);
  }
  const missing = Object.keys(members).filter((name) => !sums.has(name) && !left.has(name));
  if (missing.length > 0) throw bad(where, `it lacks ${missing.join(', ')}`);
}

export function bad(where: string, why: string): GantryError {
  return new GantryError('BAD_ARCHIVE', `${where} is no sound checkpoint: ${why}`, {
    hint: 'it was damaged, cut off or changed: take another copy',
  });
}
