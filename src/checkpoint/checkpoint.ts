import { createReadStream } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import {
  CONFIG,
  CONTAINERD_STATUS,
  DUMP_LOG,
  LAYER,
  LOG,
  SHM,
  SPEC,
  STATISTICS,
  STATUS,
  type TcpMode,
} from '../archive/layout.ts';
import { COMPRESSIONS, type Compression } from '../archive/output.ts';
import { exists } from '../durable.ts';
import { GantryError } from '../errors.ts';
import type { CheckpointRequest, Result } from '../gen/gantry/v1/agent.ts';
import type { SourceEntry } from '../migrate/journal.ts';
import { endDumped } from '../migrate/settle.ts';
import { freezerOf, processesOf } from '../runtime/cgroup.ts';
import { residentBytes, writableLayer } from '../runtime/containerd.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { type CriuOptions, checkLines, dump } from '../runtime/criu.ts';
import { locateReal } from '../surgery/locate.ts';
import { ArchiveDestination, type Destination, FolderDestination } from './destination.ts';
import { FrozenContainer } from './freeze.ts';
import { checkSpace, keepLog } from './images.ts';
import { packFolder, packLayer } from './layer.ts';
import { configDump, containerdStatus, manifestOf, statusDump } from './metadata.ts';
import { checkDumpable } from './preflight.ts';

const TCP_MODES: Readonly<Record<string, TcpMode>> = { '': 'none', established: 'established', close: 'close' };

/**
 * Writes a container's state into a new folder or archive. Until that is complete any failure leaves the container
 * running, and nothing under the name of what was to be made.
 */
export async function checkpoint(node: Node, request: CheckpointRequest, operation: Operation): Promise<Result> {
  const options = optionsOf(request);
  const found = await locateReal(node, request.container, operation.signal);
  if (node.busy.has(found.id) || node.busy.has(found.podSandboxId))
    throw new GantryError('BUSY', `another operation works on ${request.container}`);
  node.busy.add(found.id);
  try {
    const container = await operation.phase('check', async () => {
      const detail = await node.cri.describe(found.id, operation.signal);
      await checkDumpable(detail);
      return detail;
    });
    await using destination = await destinationOf(node, request, operation);
    await write(node, container, { request, options, destination }, operation);
    return operation.result({
      containerId: container.id,
      sandboxId: container.sandbox.id,
      node: node.config.node,
      directory: request.output || request.archive,
    });
  } finally {
    node.busy.delete(found.id);
  }
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

function destinationOf(node: Node, request: CheckpointRequest, operation: Operation): Promise<Destination> {
  const { output, archive, compression, recipients } = request;
  if (output !== '') return FolderDestination.open(output);
  return ArchiveDestination.open(node, operation.id, archive, {
    compression: (compression || 'none') as Compression,
    recipients,
  });
}

interface Writing {
  readonly request: CheckpointRequest;
  readonly options: CriuOptions;
  readonly destination: Destination;
}

async function write(node: Node, container: ContainerDetail, writing: Writing, operation: Operation): Promise<void> {
  const { request, options, destination } = writing;
  const { work, rest } = destination;
  const running = await processesOf(await freezerOf(container.pid));
  await checkSpace(request.output || join(request.archive, '..'), await residentBytes(running));
  const layer = await writableLayer(node.config.runtimeSocket, container.snapshotter, container.snapshotKey);
  const { image } = await node.cri.imageStatus(container.imageRef);

  const entry: SourceEntry = {
    role: 'source',
    state: 'frozen',
    operation: operation.id,
    peer: '',
    container: container.id,
    sandbox: container.sandbox.id,
    folder: rest,
  };
  await using frozen = await operation.phase('freeze', () => FrozenContainer.freeze(node, container, entry));
  operation.throwIfCancelled();
  const { length: processes } = await frozen.processes();
  await destination.expect(processes);
  await operation.phase('dump', () => dumpInto(node, container, writing, operation));
  await frozen.refreeze();
  operation.throwIfCancelled();
  await operation.phase('save files', async () => {
    await destination.add(LAYER, packLayer(layer, operation.signal));
    await addShm(container, destination, operation.signal);
    await addMetadata(node, container, destination);
    await addIfThere(destination, STATISTICS, join(work, STATISTICS));
    await addIfThere(destination, DUMP_LOG, join(work, DUMP_LOG));
  });
  const imageId = image?.id ?? container.imageRef;
  const manifest = await manifestOf(node, container, { tcp: options.tcp, processes, imageId });
  // It is all there: nobody needs to stand still for the disk.
  if (request.leaveRunning) await frozen.thaw();
  await operation.phase('finish', () => destination.finish(manifest));
  if (request.leaveRunning) return;
  operation.commit();
  await operation.phase('end container', async () => {
    await node.journal.write({ ...entry, state: 'committed' });
    frozen.leaveFrozen();
    await endDumped(node, { ...entry, state: 'committed' });
  });
}

async function dumpInto(node: Node, container: ContainerDetail, writing: Writing, operation: Operation): Promise<void> {
  const { options, destination } = writing;
  const { images, work } = destination;
  const outcome = await dump(container.id, images, work, options).then(
    () => undefined,
    (error: unknown) => error,
  );
  if (outcome !== undefined) await keepLog(node, join(work, DUMP_LOG), `${operation.id}-dump.log`);
  // A disk that is full is the better reason for a dump that has failed.
  await destination.dumped(outcome === undefined);
  if (outcome !== undefined) throw outcome;
}

/** /dev/shm is the pod's, and mounted into its containers from the node: CRIU leaves it out. */
async function addShm({ spec }: ContainerDetail, destination: Destination, signal: AbortSignal): Promise<void> {
  const folder = spec.mounts?.find(({ destination: to }) => to === '/dev/shm')?.source ?? '';
  if (!isAbsolute(folder) || !(await exists(folder)) || (await readdir(folder)).length === 0) return;
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
