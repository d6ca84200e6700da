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
  SHM,
  SPEC,
  STATISTICS,
  STATUS,
  type TcpMode,
  VERSION,
} from '../archive/layout.ts';
import { memberOf, POD_DUMP, POD_OPTIONS, type PodManifest, podOptions } from '../archive/pod.ts';
import { ArchiveWriter } from '../archive/writer.ts';
import { exists } from '../durable.ts';
import { GantryError } from '../errors.ts';
import { ContainerState, PodSandboxState } from '../gen/cri.ts';
import type { CheckpointRequest, Result } from '../gen/gantry/v1/agent.ts';
import type { SourceEntry } from '../migrate/journal.ts';
import { endDumped } from '../migrate/settle.ts';
import { freezerOf, processesOf } from '../runtime/cgroup.ts';
import { residentBytes, writableLayer } from '../runtime/containerd.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { type CriuOptions, checkLines, dump } from '../runtime/criu.ts';
import { locateReal } from '../surgery/locate.ts';
import { ArchiveDestination, ArchiveFile, type Destination, FolderDestination } from './destination.ts';
import { FrozenContainer } from './freeze.ts';
import { checkSpace, keepLog } from './images.ts';
import { packFolder, packLayer } from './layer.ts';
import { configDump, containerdStatus, manifestOf, statusDump } from './metadata.ts';
import { checkDumpable } from './preflight.ts';
import { addVolumes, shmFolder } from './volumes.ts';

const TCP_MODES: Readonly<Record<string, TcpMode>> = { '': 'none', established: 'established', close: 'close' };

/**
 * Writes the state of a container, or of a pod, into a new folder or archive. Until that is complete any failure leaves
 * everything running, and nothing under the name of what was to be made.
 */
export async function checkpoint(node: Node, request: CheckpointRequest, operation: Operation): Promise<Result> {
  const options = optionsOf(request);
  const { sandbox, containers, isPod } = await targetOf(node, request.container, operation);
  const taken = [sandbox, ...containers].find((id) => node.busy.has(id));
  if (taken !== undefined) throw new GantryError('BUSY', `another operation works on ${request.container}`);
  const locked = isPod ? [sandbox, ...containers] : containers;
  for (const id of locked) node.busy.add(id);
  try {
    const details = await operation.phase('check', async () => {
      const all = await Promise.all(containers.map((id) => node.cri.describe(id, operation.signal)));
      for (const detail of all) await checkDumpable(detail);
      return all;
    });
    const job = { node, request, options, operation };
    if (isPod) await writePod(job, details);
    else await writeContainer(job, details[0] as ContainerDetail);
    return operation.result({
      containerId: isPod ? '' : (containers[0] ?? ''),
      sandboxId: sandbox,
      node: node.config.node,
      directory: request.output || request.archive,
    });
  } finally {
    for (const id of locked) node.busy.delete(id);
  }
}

interface Job {
  readonly node: Node;
  readonly request: CheckpointRequest;
  readonly options: CriuOptions;
  readonly operation: Operation;
}

interface Target {
  readonly sandbox: string;
  /** IDs. */
  readonly containers: readonly string[];
  readonly isPod: boolean;
}

/** A container by ID or name; a pod by the ID of its sandbox, or by its name where no container has that. */
async function targetOf(node: Node, wanted: string, { signal }: Operation): Promise<Target> {
  try {
    const { id, podSandboxId } = await locateReal(node, wanted, signal);
    return { sandbox: podSandboxId, containers: [id], isPod: false };
  } catch (error) {
    const mayBePod = error instanceof GantryError && ['IS_SANDBOX', 'NOT_FOUND'].includes(error.reason);
    if (!mayBePod) throw error;
    const pods = (await node.cri.listSandboxes(signal)).filter(
      ({ id, state, metadata }) =>
        state === PodSandboxState.SANDBOX_READY &&
        ((wanted.length >= 3 && id.startsWith(wanted)) || metadata?.name === wanted),
    );
    const [pod] = pods;
    if (pod === undefined || pods.length > 1) throw error;
    const containers = (await node.cri.listContainers(signal))
      .filter(({ podSandboxId, state }) => podSandboxId === pod.id && state === ContainerState.CONTAINER_RUNNING)
      .map(({ id }) => id);
    if (containers.length === 0) throw new GantryError('NOT_RUNNING', `no container of pod ${wanted} is running`);
    return { sandbox: pod.id, containers, isPod: true };
  }
}

async function writeContainer(job: Job, container: ContainerDetail): Promise<void> {
  const { node, request, operation } = job;
  if (request.output !== '') {
    await using destination = await FolderDestination.open(request.output);
    const write = (frozen: Frozen) => dumpInto(job, frozen, destination);
    await writeFrozen(job, [container], destination.rest, write, () => destination.seal());
    return;
  }
  await using archive = await openArchive(request);
  await using destination = await ArchiveDestination.open(node, operation.id, archive);
  const write = (frozen: Frozen) => dumpInto(job, frozen, destination);
  await writeFrozen(job, [container], archive.partial, write, () => archive.finish());
}

/** All containers stand still before the first is dumped, and go on together. */
async function writePod(job: Job, containers: readonly ContainerDetail[]): Promise<void> {
  const { node, request, operation } = job;
  const [{ sandbox }] = containers as [ContainerDetail];
  if (request.output !== '') {
    throw new GantryError('IS_SANDBOX', `${request.container} is a pod (the ID is of its sandbox)`, {
      hint: 'a pod goes into an archive (--archive); for one container name that: gantry ps lists them',
    });
  }
  if (request.recipients.length > 0) {
    throw new GantryError('UNSUPPORTED', "a pod's archive cannot be encrypted yet", {
      hint: 'encrypt the file with age afterwards, or checkpoint its containers one by one',
    });
  }
  await using archive = await openArchive(request);
  const pod = new ArchiveWriter(archive.output);
  await pod.add(POD_OPTIONS, podOptions(Object.fromEntries(containers.map(({ id, name }) => [name, id]))));
  await pod.add(POD_DUMP, `${JSON.stringify(podOf(sandbox), null, 2)}\n`);
  const sums: Record<string, string> = {};
  const write = async (frozen: Frozen): Promise<void> => {
    const { name } = frozen.container;
    await using destination = await ArchiveDestination.open(node, `${operation.id}-${name}`, archive);
    await pod.nest(memberOf(name), () => dumpInto(job, frozen, destination));
    sums[name] = createHash('sha256').update(destination.manifest).digest('hex');
  };
  await writeFrozen(job, containers, archive.partial, write, async () => {
    const manifest: PodManifest = {
      version: VERSION,
      created: new Date().toISOString(),
      pod: podOf(sandbox),
      containers: sums,
    };
    await pod.add(MANIFEST, `${JSON.stringify(manifest, null, 2)}\n`);
    await pod.end();
    await archive.finish();
  });
}

function podOf({ id, config }: ContainerDetail['sandbox']): PodManifest['pod'] {
  return { id, name: config.metadata?.name ?? '', namespace: config.metadata?.namespace ?? '' };
}

function openArchive({ archive, compression, recipients }: CheckpointRequest): Promise<ArchiveFile> {
  return ArchiveFile.open(archive, (compression || 'none') as Compression, recipients);
}

function optionsOf({ output, archive, tcp, criuOptions, timeoutSeconds, compression }: CheckpointRequest): CriuOptions {
  const mode = TCP_MODES[tcp];
  if ((output === '') === (archive === '')) throw new GantryError('USAGE', 'either a folder or an archive');
  if (!isAbsolute(output || archive)) throw new GantryError('USAGE', `${output || archive} must be an absolute path`);
  if (mode === undefined) throw new GantryError('USAGE', `"${tcp}" is no way to treat TCP connections`);
  if (!COMPRESSIONS.includes(compression as Compression) && compression !== '')
    throw new GantryError('USAGE', `compression is one of ${COMPRESSIONS.join(', ')}`);
  checkLines(criuOptions);
  return { tcp: mode, lines: criuOptions, ...(timeoutSeconds > 0 && { timeoutMs: timeoutSeconds * 1000 }) };
}

/** A container that stands still, and what was found out before it did. */
interface Frozen {
  readonly container: ContainerDetail;
  readonly frozen: FrozenContainer;
  readonly layer: string;
  readonly imageId: string;
  /** Whether /dev/shm, which is the pod's, goes with this one. */
  readonly hasShm: boolean;
  /** Names of the pod's volumes that have been written so far. */
  readonly savedVolumes: Set<string>;
}

/**
 * Freezes containers, has each written, and lets them go on, or ends them.
 *
 * @param rest what a rollback removes
 * @param finish makes it a checkpoint
 */
async function writeFrozen(
  { node, request, operation }: Job,
  containers: readonly ContainerDetail[],
  rest: string,
  write: (frozen: Frozen) => Promise<void>,
  finish: () => Promise<void>,
): Promise<void> {
  const running = await Promise.all(containers.map(async ({ pid }) => processesOf(await freezerOf(pid))));
  await checkSpace(request.output || dirname(request.archive), await residentBytes(running.flat()));
  const savedVolumes = new Set<string>();
  const prepared = await Promise.all(
    containers.map(async (container, index) => ({
      container,
      layer: await writableLayer(node.config.runtimeSocket, container.snapshotter, container.snapshotKey),
      imageId: (await node.cri.imageStatus(container.imageRef)).image?.id ?? container.imageRef,
      hasShm: index === 0,
      savedVolumes,
      entry: {
        role: 'source',
        state: 'frozen',
        operation: containers.length === 1 ? operation.id : `${operation.id}-${index}`,
        peer: '',
        container: container.id,
        sandbox: container.sandbox.id,
        folder: rest,
      } satisfies SourceEntry,
    })),
  );
  await using stack = new AsyncDisposableStack();
  const all = await operation.phase('freeze', async () => {
    const frozen = [];
    for (const one of prepared)
      frozen.push({ ...one, frozen: stack.use(await FrozenContainer.freeze(node, one.container, one.entry)) });
    return frozen;
  });
  for (const one of all) {
    operation.throwIfCancelled();
    await write(one);
  }
  // It is all there: nobody needs to stand still for the disk.
  if (request.leaveRunning) for (const { frozen } of all) await frozen.thaw();
  // From here on it is carried through: what has its name already is not taken back.
  operation.commit();
  await operation.phase('finish', finish);
  if (request.leaveRunning) return;
  await operation.phase('end container', async () => {
    for (const { entry } of all) await node.journal.write({ ...entry, state: 'committed' });
    for (const { frozen, entry } of all) {
      frozen.leaveFrozen();
      await endDumped(node, { ...entry, state: 'committed' });
    }
  });
}

/** Everything that is of one container. */
async function dumpInto({ node, options, operation }: Job, one: Frozen, destination: Destination): Promise<void> {
  const { container, frozen, layer, imageId, hasShm, savedVolumes } = one;
  const { work } = destination;
  const { length: processes } = await frozen.processes();
  await destination.expect(processes);
  await operation.phase('dump', async () => {
    const outcome = await dump(container.id, destination.images, work, options).then(
      () => undefined,
      (error: unknown) => error,
    );
    if (outcome !== undefined) await keepLog(node, join(work, DUMP_LOG), `${operation.id}-dump.log`);
    // A disk that is full is the better reason for a dump that has failed.
    await destination.dumped(outcome === undefined);
    if (outcome !== undefined) throw outcome;
  });
  await frozen.refreeze();
  operation.throwIfCancelled();
  await operation.phase('save files', async () => {
    await destination.add(LAYER, packLayer(layer, operation.signal));
    await addVolumes(container.config, destination, savedVolumes, operation.signal);
    if (hasShm) await addShm(container, destination, operation.signal);
    await addMetadata(node, container, destination);
    await addIfThere(destination, STATISTICS, join(work, STATISTICS));
    await addIfThere(destination, DUMP_LOG, join(work, DUMP_LOG));
    await destination.finish(await manifestOf(node, container, { tcp: options.tcp, processes, imageId }));
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
