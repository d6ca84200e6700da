import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import type { Node } from '../agent/node.ts';
import {
  CONFIG,
  CONTAINERD_STATUS,
  DUMP_LOG,
  LAYER,
  LOG,
  MANIFEST,
  type Manifest,
  SHM,
  SPEC,
  STATISTICS,
  STATUS,
  VERSION,
} from '../archive/layout.ts';
import { podAnnotations } from '../archive/oci.ts';
import { PlannedArchive } from '../archive/planned.ts';
import { memberOf, POD_DUMP, POD_OPTIONS, type PodManifest, podOptions } from '../archive/pod.ts';
import { ArchiveWriter } from '../archive/writer.ts';
import { exists } from '../durable.ts';
import { GantryError } from '../errors.ts';
import { writableLayer } from '../runtime/containerd.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { ArchiveDestination, type Destination, type NewArchive } from './destination.ts';
import { packFolder, packLayer } from './layer.ts';
import { configDump, containerdStatus, manifestOf, statusDump } from './metadata.ts';
import { addVolumes, shmFolder } from './volumes.ts';

/** A container that is to be saved, and what is found out while it runs. */
export interface Saving {
  readonly container: ContainerDetail;
  readonly layer: string;
  readonly imageId: string;
  /** Whether /dev/shm, which is the pod's, goes with this one. */
  readonly hasShm: boolean;
  /** Names of the pod's volumes that have been written so far. */
  readonly savedVolumes: Set<string>;
}

export async function toSave(
  node: Node,
  container: ContainerDetail,
  which: Pick<Saving, 'hasShm' | 'savedVolumes'>,
): Promise<Saving> {
  return {
    container,
    layer: await writableLayer(node.config.runtimeSocket, container.snapshotter, container.snapshotKey),
    imageId: (await node.cri.imageStatus(container.imageRef)).image?.id ?? container.imageRef,
    ...which,
  };
}

/** Everything of a frozen container but its memory, and with it the manifest. */
export async function saveFiles(
  node: Node,
  { container, layer, imageId, hasShm, savedVolumes }: Saving,
  dumped: Pick<Manifest, 'tcp' | 'processes' | 'parent' | 'cold'>,
  destination: Destination,
  signal: AbortSignal,
): Promise<void> {
  await destination.add(LAYER, packLayer(layer, signal));
  await addVolumes(container.config, destination, savedVolumes, signal);
  if (hasShm) await addShm(container, destination, signal);
  await addMetadata(node, container, destination);
  await destination.take(STATISTICS);
  await destination.take(DUMP_LOG);
  await destination.finish(await manifestOf(node, container, { ...dumped, imageId }));
}

/** An archive of a pod that is being written: one of each container inside, one after another. */
export class PodArchive {
  readonly #archive: NewArchive;
  readonly #writer: ArchiveWriter;
  readonly #pod: PodManifest['pod'];
  readonly #sums: Record<string, string> = {};

  private constructor(archive: NewArchive, pod: PodManifest['pod']) {
    this.#archive = archive;
    this.#writer = new ArchiveWriter(archive.output);
    this.#pod = pod;
  }

  /** @param containers of one sandbox; at least one */
  static async begin(archive: NewArchive, containers: readonly ContainerDetail[]): Promise<PodArchive> {
    const [{ sandbox }] = containers as [ContainerDetail];
    const { name = '', namespace = '' } = sandbox.config.metadata ?? {};
    const pod = new PodArchive(archive, { id: sandbox.id, name, namespace });
    await pod.#writer.add(POD_OPTIONS, podOptions(Object.fromEntries(containers.map((one) => [one.name, one.id]))));
    await pod.#writer.add(POD_DUMP, `${JSON.stringify(pod.#pod, null, 2)}\n`);
    return pod;
  }

  async add(
    node: Node,
    operation: string,
    name: string,
    write: (destination: ArchiveDestination) => Promise<void>,
  ): Promise<void> {
    const { output } = this.#archive;
    const planned = output.canReserve ? undefined : new PlannedArchive();
    await using destination = await ArchiveDestination.open(node, `${operation}-${name}`, output, planned);
    if (planned === undefined) {
      await this.#writer.nest(memberOf(name), () => write(destination));
    } else {
      await write(destination);
      await this.#writer.nest(memberOf(name), () => planned.writeTo(new ArchiveWriter(output)), planned.size);
    }
    this.#sums[name] = createHash('sha256').update(destination.manifest).digest('hex');
  }

  async finish(): Promise<void> {
    const created = new Date().toISOString();
    const manifest: PodManifest = { version: VERSION, created, pod: this.#pod, containers: this.#sums };
    await this.#writer.add(MANIFEST, `${JSON.stringify(manifest, null, 2)}\n`);
    await this.#writer.end();
    await this.#archive.finish(podAnnotations(this.#pod));
  }
}

/** /dev/shm is the pod's, and mounted into its containers from the node: CRIU leaves it out. */
async function addShm({ spec }: ContainerDetail, destination: Destination, signal: AbortSignal): Promise<void> {
  const folder = await shmFolder(spec);
  if (folder !== undefined && (await readdir(folder)).length > 0)
    await destination.add(SHM, packFolder(folder, signal));
}

async function addMetadata(node: Node, container: ContainerDetail, destination: Destination): Promise<void> {
  const { status } = await node.cri.containerStatus(container.id);
  if (status === undefined) throw new GantryError('NOT_FOUND', `container ${container.id} is no more`);
  await destination.add(SPEC, JSON.stringify(container.spec));
  await destination.add(CONFIG, configDump(container, status));
  await destination.add(STATUS, statusDump(status));
  await destination.add(CONTAINERD_STATUS, containerdStatus(container, status));
  if (status.logPath === '' || !(await exists(status.logPath))) return;
  const { size } = await stat(status.logPath);
  if (size > 0) await destination.add(LOG, createReadStream(status.logPath, { end: size - 1 }));
}
