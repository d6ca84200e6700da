import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readFile, rename, stat } from 'node:fs/promises';
import { arch } from 'node:os';
import { join } from 'node:path';
import { exists, syncFolder } from '../durable.ts';
import { messageOf } from '../errors.ts';
import { bad, type Compression, type Manifest } from './layout.ts';
import type { PodManifest } from './pod.ts';
import { contentOf } from './reader.ts';

/*
 * An OCI image layout (OCI image specification 1.1) with one image, whose one layer is a checkpoint's archive: what
 * registries keep, and what CRI-O and containerd start a container from.
 */

export type Annotations = Readonly<Record<string, string>>;

const LAYOUT = 'oci-layout';
const INDEX = 'index.json';
const BLOBS = 'blobs/sha256';
const TYPE = 'application/vnd.oci.image';
const SUFFIXES: Readonly<Record<Compression, string>> = { none: '', gzip: '+gzip', zstd: '+zstd' };
/** As Go calls them, and so OCI. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386' };
const MAX_JSON_BYTES = 4 * 1024 * 1024;

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

/** By which CRI-O, and containerd and checkpointctl (its lib/annotations.go), know an image as the checkpoint of a container. */
export function annotationsOf(manifest: Manifest): Annotations {
  const { container, sandbox, image, node, criu } = manifest;
  return {
    'io.kubernetes.cri-o.annotations.checkpoint.name': container.name,
    'org.criu.checkpoint.container.name': container.name,
    ...podAnnotations(sandbox),
    'org.criu.checkpoint.rootfsImageUserRequested': image.name,
    'org.criu.checkpoint.rootfsImageName': image.name,
    'org.criu.checkpoint.rootfsImageID': image.id,
    'org.criu.checkpoint.runtime.name': sandbox.runtimeHandler || 'runc',
    'org.criu.checkpoint.criu.version': criu,
    'org.criu.checkpoint.host.arch': architectureOf(node.architecture),
    'org.criu.checkpoint.host.kernel': node.kernel,
  };
}

/** Of an image with a whole pod, which neither of them knows: without the name of a container it is no checkpoint to them. */
export function podAnnotations({ id, name, namespace }: PodManifest['pod']): Annotations {
  return {
    'org.criu.checkpoint.engine.name': 'gantry',
    'org.criu.checkpoint.pod.name': name,
    'org.criu.checkpoint.pod.id': id,
    'org.criu.checkpoint.pod.namespace': namespace,
  };
}

/** Makes a folder a layout. @param layer a file in it, which becomes a blob */
export async function writeLayout(
  folder: string,
  layer: { readonly path: string; readonly compression: Compression },
  annotations: Annotations,
): Promise<void> {
  await mkdir(join(folder, BLOBS), { recursive: true, mode: 0o700 });
  const digest = await sha256(createReadStream(layer.path));
  const { size } = await stat(layer.path);
  const unpacked = layer.compression === 'none' ? digest : await sha256(contentOf(layer.path));
  await rename(layer.path, join(folder, BLOBS, digest));
  const created = new Date().toISOString();
  const platform = { architecture: architectureOf(arch()), os: 'linux' };
  const config = await writeBlob(folder, `${TYPE}.config.v1+json`, {
    created,
    ...platform,
    config: {},
    rootfs: { type: 'layers', diff_ids: [`sha256:${unpacked}`] },
    history: [{ created, created_by: 'gantry checkpoint' }],
  });
  const manifest = await writeBlob(folder, `${TYPE}.manifest.v1+json`, {
    schemaVersion: 2,
    mediaType: `${TYPE}.manifest.v1+json`,
    config,
    layers: [
      { mediaType: `${TYPE}.layer.v1.tar${SUFFIXES[layer.compression]}`, digest: `sha256:${digest}`, size },
    ] satisfies Descriptor[],
    annotations: { ...annotations, 'org.opencontainers.image.created': created },
  });
  await writeJson(join(folder, LAYOUT), { imageLayoutVersion: '1.0.0' });
  await syncFolder(join(folder, BLOBS));
  await writeJson(join(folder, INDEX), {
    schemaVersion: 2,
    mediaType: `${TYPE}.index.v1+json`,
    manifests: [{ ...manifest, platform, annotations: { 'org.opencontainers.image.ref.name': 'latest' } }],
    // Who imports the whole index looks here.
    annotations,
  });
  await syncFolder(folder);
}

/** The archive in a layout; undefined for a folder that is none. Errors: BAD_ARCHIVE. */
export async function archiveIn(folder: string): Promise<string | undefined> {
  if (!(await exists(join(folder, LAYOUT)))) return undefined;
  const index = await readJson<{ manifests?: Descriptor[] }>(folder, INDEX);
  const manifest = await readJson<{ layers?: Descriptor[] }>(folder, blobOf(folder, index.manifests));
  return join(folder, blobOf(folder, manifest.layers));
}

/** Of the one descriptor in a list. Whoever wrote it may be anybody: no path comes from it. */
function blobOf(folder: string, descriptors: unknown): string {
  const digests = Array.isArray(descriptors) ? descriptors.map((one: Partial<Descriptor> | null) => one?.digest) : [];
  const [, hash] = /^sha256:([0-9a-f]{64})$/.exec(String(digests[0])) ?? [];
  if (digests.length !== 1 || hash === undefined)
    throw bad(folder, 'it is an OCI image layout, but not of one image with one layer');
  return join(BLOBS, hash);
}

async function writeBlob(folder: string, mediaType: string, content: object): Promise<Descriptor> {
  const text = `${JSON.stringify(content)}\n`;
  const hash = createHash('sha256').update(text).digest('hex');
  await writeText(join(folder, BLOBS, hash), text);
  return { mediaType, digest: `sha256:${hash}`, size: Buffer.byteLength(text) };
}

function writeJson(file: string, content: object): Promise<void> {
  return writeText(file, `${JSON.stringify(content)}\n`);
}

async function writeText(path: string, text: string): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  await file.writeFile(text);
  await file.sync();
}

async function readJson<T extends object>(folder: string, name: string): Promise<T> {
  try {
    const path = join(folder, name);
    const found = await stat(path);
    if (!found.isFile() || found.size > MAX_JSON_BYTES) throw new Error('it is no small file');
    const value = JSON.parse(await readFile(path, 'utf8')) as T | null;
    if (typeof value === 'object' && value !== null) return value;
  } catch (error) {
    throw bad(folder, `its ${name} cannot be read: ${messageOf(error)}`);
  }
  throw bad(folder, `its ${name} is no object`);
}

async function sha256(content: AsyncIterable<Uint8Array>): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of content) hash.update(piece);
  return hash.digest('hex');
}

function architectureOf(node: string): string {
  return ARCHITECTURES[node] ?? node;
}
