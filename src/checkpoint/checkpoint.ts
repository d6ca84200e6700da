import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import {
  COMPRESSIONS,
  CONFIG,
  CONTAINERD_STATUS,
  type Compression,
  DUMP_LOG,
  LAYER,
  LOG,
  MANIFEST,
  type Parent,
  parseManifest,
  SHM,
  SPEC,
  STATISTICS,
  STATUS,
  type TcpMode,
  VERSION,
} from '../archive/layout.ts';
import { annotationsOf, podAnnotations } from '../archive/oci.ts';
import { PlannedArchive } from '../archive/planned.ts';
import { memberOf, POD_DUMP, POD_OPTIONS, type PodManifest, podOptions } from '../archive/pod.ts';
import { ArchiveWriter } from '../archive/writer.ts';
import { exists } from '../durable.ts';
import { GantryError } from '../errors.ts';
import type { CheckpointRequest, Result } from '../gen/gantry/v1/agent.ts';
import type { SourceEntry } from '../migrate/journal.ts';
import { endDumped, leavePaused } from '../migrate/settle.ts';
import { freezerOf, processesOf } from '../runtime/cgroup.ts';
import { residentBytes, writableLayer } from '../runtime/containerd.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { type CriuOptions, checkLines, dump } from '../runtime/criu.ts';
import {
  ArchiveDestination,
  ArchiveFile,
  ArchiveImage,
  type Destination,
  FolderDestination,
  type NewArchive,
} from './destination.ts';
import { FrozenPod } from './freeze.ts';
import { checkSpace, keepLog } from './images.ts';
import { packFolder, packLayer } from './layer.ts';
import { configDump, containerdStatus, manifestOf, statusDump } from './metadata.ts';
import { checkWanted, trackingOf } from './parent.ts';
import { checkDumpable } from './preflight.ts';
import { relink } from './relink.ts';
import { selectedOf } from './selected.ts';
import { occupy, targetOf } from './target.ts';
import { forgetTracked, rememberTracked } from './tracked.ts';
import { addVolumes, shmFolder } from './volumes.ts';

const TCP_MODES: Readonly<Record<string, TcpMode>> = { '': 'none', established: 'established', close: 'close' };

/**
 * Writes the state of a container, or of a pod, into a new folder or archive. Until that is complete any failure leaves
 * everything running, and nothing under the name of what was to be made.
 */
export async function checkpoint(node: Node, request: CheckpointRequest, operation: Operation): Promise<Result> {
  const options = optionsOf(request);
  const target =
    request.containers.length > 0
      ? await selectedOf(node, request, operation.signal)
      : await targetOf(node, request.container, operation.signal);
  const { sandbox, containers, isPod } = target;
  using _taken = occupy(node, target, request.container);
  const details = await operation.phase('check', async () => {
    const all = await Promise.all(containers.map((id) => node.cri.describe(id, operation.signal)));
    for (const detail of all) await checkDumpable(detail);
    return all;
  });
  const [only] = details;
  const tracking =
    only === undefined || isPod
      ? { options: {} }
      : await operation.phase('check', () => trackingOf(node, only.id, request));
  const job = { node, request, options: { ...options, ...tracking.options }, parent: tracking.parent, operation };
  if (isPod) await writePod(job, details);
  else await writeContainer(job, details[0] as ContainerDetail);
  return operation.result({
    containerId: isPod ? '' : (containers[0] ?? ''),
    sandboxId: sandbox,
    node: node.config.node,
    directory: whereTo(request),
  });
}

interface Job {
  readonly node: Node;
  readonly request: CheckpointRequest;
  readonly options: CriuOptions;
  readonly parent: Parent | undefined;
  readonly operation: Operation;
}

async function writeContainer(job: Job, container: ContainerDetail): Promise<void> {
  const { node, request, operation } = job;
  if (request.output !== '') {
    await using destination = await FolderDestination.open(node, operation.id, request.output);
    const write = (frozen: Frozen) => dumpInto(job, frozen, destination);
    await writeFrozen(job, [container], write, async () => {
      await destination.seal();
      if (job.options.tracksMemory) await rememberTracked(node, container.id, destination.sha256);
    });
    return;
  }
  await using archive = await openArchive(job);
  await using destination = await ArchiveDestination.open(node, operation.id, archive.output);
  const write = (frozen: Frozen) => dumpInto(job, frozen, destination);
  await writeFrozen(job, [container], write, () =>
    archive.finish(annotationsOf(parseManifest(destination.manifest, whereTo(request)))),
  );
}

/** All containers stand still before the first is dumped, and go on together. */
async function writePod(job: Job, containers: readonly ContainerDetail[]): Promise<void> {
  const { node, request, operation } = job;
  const [{ sandbox }] = containers as [ContainerDetail];
  if (request.output !== '') {
    throw new GantryError('IS_SANDBOX', `${request.container} is a pod (the ID is of its sandbox)`, {
      hint: 'a pod goes into an archive (--archive) or an image (--oci); for one container name that: gantry ps lists them',
    });
  }
  await using archive = await openArchive(job);
  const { output } = archive;
  const pod = new ArchiveWriter(output);
  await pod.add(POD_OPTIONS, podOptions(Object.fromEntries(containers.map(({ id, name }) => [name, id]))));
  await pod.add(POD_DUMP, `${JSON.stringify(podOf(sandbox), null, 2)}\n`);
  const sums: Record<string, string> = {};
  const write = async (frozen: Frozen): Promise<void> => {
    const { name } = frozen.container;
    const planned = output.canReserve ? undefined : new PlannedArchive();
    await using destination = await ArchiveDestination.open(node, `${operation.id}-${name}`, output, planned);
    if (planned === undefined) {
      await pod.nest(memberOf(name), () => dumpInto(job, frozen, destination));
    } else {
      await dumpInto(job, frozen, destination);
      await pod.nest(memberOf(name), () => planned.writeTo(new ArchiveWriter(output)), planned.size);
    }
    sums[name] = createHash('sha256').update(destination.manifest).digest('hex');
  };
  await writeFrozen(job, containers, write, async () => {
    const manifest: PodManifest = {
      version: VERSION,
      created: new Date().toISOString(),
      pod: podOf(sandbox),
      containers: sums,
    };
    await pod.add(MANIFEST, `${JSON.stringify(manifest, null, 2)}\n`);
    await pod.end();
    await archive.finish(podAnnotations(manifest.pod));
  });
}

function podOf({ id, config }: ContainerDetail['sandbox']): PodManifest['pod'] {
  return { id, name: config.metadata?.name ?? '', namespace: config.metadata?.namespace ?? '' };
}

function openArchive({ node, request, operation }: Job): Promise<NewArchive> {
  const { archive, image, recipients } = request;
  const compression = (request.compression || 'none') as Compression;
  return archive === ''
    ? ArchiveImage.open(node, operation.id, image, compression)
    : ArchiveFile.open(node, operation.id, archive, { compression, recipients });
}

function whereTo({ output, archive, image }: CheckpointRequest): string {
  return output || archive || image;
}

function optionsOf(request: CheckpointRequest): CriuOptions {
  const { output, archive, image, tcp, criuOptions, timeoutSeconds, compression, recipients } = request;
  const mode = TCP_MODES[tcp];
  if ([output, archive, image].filter((one) => one !== '').length !== 1)
    throw new GantryError('USAGE', 'one of a folder, an archive and an image');
  const path = whereTo(request);
  if (!isAbsolute(path)) throw new GantryError('USAGE', `${path} must be an absolute path`);
  if (mode === undefined) throw new GantryError('USAGE', `"${tcp}" is no way to treat TCP connections`);
  if (!COMPRESSIONS.includes(compression as Compression) && compression !== '')
    throw new GantryError('USAGE', `compression is one of ${COMPRESSIONS.join(', ')}`);
  if (recipients.length > 0 && archive === '') throw new GantryError('USAGE', 'only an archive can be encrypted');
  if (request.leaveRunning && request.pause)
    throw new GantryError('USAGE', 'the container either goes on or stays paused');
  checkWanted(request);
  checkLines(criuOptions);
  return { tcp: mode, lines: criuOptions, ...(timeoutSeconds > 0 && { timeoutMs: timeoutSeconds * 1000 }) };
}

/** A container that stands still, and what was found out before it did. */
interface Frozen {
  readonly container: ContainerDetail;
  readonly pod: FrozenPod;
  readonly layer: string;
  readonly imageId: string;
  /** Whether /dev/shm, which is the pod's, goes with this one. */
  readonly hasShm: boolean;
  /** Names of the pod's volumes that have been written so far. */
  readonly savedVolumes: Set<string>;
}

/**
 * Freezes containers, has each written, and lets them go on, leaves them frozen, or ends them.
 *
 * @param finish makes it a checkpoint
 */
async function writeFrozen(
  { node, request, options, operation }: Job,
  containers: readonly ContainerDetail[],
  write: (frozen: Frozen) => Promise<void>,
  finish: () => Promise<void>,
): Promise<void> {
  const running = await Promise.all(containers.map(async ({ pid }) => processesOf(await freezerOf(pid))));
  await checkSpace(dirname(whereTo(request)), await residentBytes(running.flat()));
  const savedVolumes = new Set<string>();
  const prepared = await Promise.all(
    containers.map(async (container, index) => ({
      container,
      layer: await writableLayer(node.config.runtimeSocket, container.snapshotter, container.snapshotKey),
      imageId: (await node.cri.imageStatus(container.imageRef)).image?.id ?? container.imageRef,
      hasShm: index === 0,
      savedVolumes,
    })),
  );
  const entry: SourceEntry = {
    role: 'source',
    state: 'frozen',
    operation: operation.id,
    peer: '',
    containers: containers.map(({ id }) => id),
    sandbox: containers[0]?.sandbox.id ?? '',
    ...(options.tcp === 'established' && { keepsConnections: true }),
  };
  await using pod = await operation.phase('freeze', () => FrozenPod.freeze(node, containers, entry));
  for (const one of prepared) {
    operation.throwIfCancelled();
    await write({ ...one, pod });
  }
  // It is all there: nobody needs to stand still for the disk.
  if (request.leaveRunning) await pod.thaw();
  // From here on it is carried through: what has its name already is not taken back.
  operation.commit();
  await operation.phase('finish', finish);
  if (request.leaveRunning) return;
  const [phase, state, settle] = request.pause
    ? (['pause', 'paused', leavePaused] as const)
    : (['end container', 'committed', endDumped] as const);
  await operation.phase(phase, async () => {
    await node.journal.write({ ...entry, state });
    pod.leaveFrozen();
    await settle(node, { ...entry, state });
  });
}

/** Everything that is of one container. */
async function dumpInto(
  { node, options, parent, operation }: Job,
  one: Frozen,
  destination: Destination,
): Promise<void> {
  const { container, pod, layer, imageId, hasShm, savedVolumes } = one;
  const { work } = destination;
  const pids = await pod.processes(container.id);
  const processes = pids.length;
  await destination.expect(processes);
  await using names = new AsyncDisposableStack();
  await operation.phase('dump', async () => {
    if (options.tracksMemory) await forgetTracked(node, container.id);
    const outcome = await dump(container.id, destination.images, work, options).then(
      () => undefined,
      (error: unknown) => error,
    );
    if (outcome !== undefined) await keepLog(node, join(work, DUMP_LOG), `${operation.id}-dump.log`);
    else if (options.lines?.includes('link-remap')) names.use(await relink(destination.images, pids));
    // A disk that is full is the better reason for a dump that has failed.
    await destination.dumped(outcome === undefined);
    if (outcome !== undefined) throw outcome;
  });
  await pod.refreeze(container.id);
  operation.throwIfCancelled();
  await operation.phase('save files', async () => {
    await destination.add(LAYER, packLayer(layer, operation.signal));
    await addVolumes(container.config, destination, savedVolumes, operation.signal);
    if (hasShm) await addShm(container, destination, operation.signal);
    await addMetadata(node, container, destination);
    await addIfThere(destination, STATISTICS, join(work, STATISTICS));
    await addIfThere(destination, DUMP_LOG, join(work, DUMP_LOG));
    const dumped = { tcp: options.tcp, processes, imageId, ...(parent !== undefined && { parent }) };
    await destination.finish(await manifestOf(node, container, dumped));
  });
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

async function addIfThere(destination: Destination, name: string, file: string): Promise<void> {
  if (await exists(file)) await destination.add(name, await readFile(file));
}
