import { dirname, isAbsolute, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import {
  COMPRESSIONS,
  type Compression,
  DUMP_LOG,
  type Parent,
  parseManifest,
  type TcpMode,
} from '../archive/layout.ts';
import { annotationsOf } from '../archive/oci.ts';
import { GantryError } from '../errors.ts';
import type { CheckpointRequest, Result } from '../gen/gantry/v1/agent.ts';
import type { SourceEntry } from '../migrate/journal.ts';
import { endDumped, leavePaused } from '../migrate/settle.ts';
import { freezerOf, processesOf } from '../runtime/cgroup.ts';
import { residentBytes } from '../runtime/containerd.ts';
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
import { checkWanted, trackingOf } from './parent.ts';
import { checkDumpable } from './preflight.ts';
import { relink } from './relink.ts';
import { PodArchive, type Saving, saveFiles, toSave } from './save.ts';
import { selectedOf } from './selected.ts';
import { occupy, targetOf } from './target.ts';
import { forgetTracked, rememberTracked } from './tracked.ts';

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
  if (request.output !== '') {
    throw new GantryError('IS_SANDBOX', `${request.container} is a pod (the ID is of its sandbox)`, {
      hint: 'a pod goes into an archive (--archive) or an image (--oci); for one container name that: gantry ps lists them',
    });
  }
  await using archive = await openArchive(job);
  const pod = await PodArchive.begin(archive, containers);
  const write = (frozen: Frozen) =>
    pod.add(node, operation.id, frozen.container.name, (destination) => dumpInto(job, frozen, destination));
  await writeFrozen(job, containers, write, () => pod.finish());
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
interface Frozen extends Saving {
  readonly pod: FrozenPod;
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
    containers.map((container, index) => toSave(node, container, { hasShm: index === 0, savedVolumes })),
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
  const { container, pod } = one;
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
  const dumped = { tcp: options.tcp, processes, ...(parent !== undefined && { parent }) };
  await operation.phase('save files', () => saveFiles(node, one, dumped, destination, operation.signal));
}
