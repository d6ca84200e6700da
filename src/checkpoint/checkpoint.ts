import { mkdir, rm } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { exists, writeDurably } from '../durable.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerConfig } from '../gen/cri.ts';
import type { CheckpointRequest, Result } from '../gen/gantry/v1/agent.ts';
import type { SourceEntry } from '../migrate/journal.ts';
import { endDumped } from '../migrate/settle.ts';
import { freezerOf, processesOf } from '../runtime/cgroup.ts';
import { residentBytes, writableLayer } from '../runtime/containerd.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { dump } from '../runtime/criu.ts';
import { run } from '../runtime/program.ts';
import { locateReal } from '../surgery/locate.ts';
import { FrozenContainer } from './freeze.ts';
import { checkSpace, keepLog } from './images.ts';
import { MANIFEST, type Manifest, NAMES } from './manifest.ts';
import { checkDumpable } from './preflight.ts';

/**
 * Writes a container's state into a new folder: CRIU's images, the writable layer, and a manifest. Until the folder is
 * complete any failure leaves the container running and no folder.
 */
export async function checkpoint(node: Node, request: CheckpointRequest, operation: Operation): Promise<Result> {
  const { output } = request;
  if (!isAbsolute(output)) throw new GantryError('USAGE', `--output ${output} must be an absolute path`);
  if (await exists(output)) {
    throw new GantryError('USAGE', `${output} exists already`, { hint: 'name a folder that does not exist yet' });
  }
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
    await makeOutput(output);
    try {
      await write(node, container, request, operation);
    } catch (error) {
      await rm(output, { recursive: true, force: true });
      throw error;
    }
    return operation.result({
      containerId: container.id,
      sandboxId: container.sandbox.id,
      node: node.config.node,
      directory: output,
    });
  } finally {
    node.busy.delete(found.id);
  }
}

async function makeOutput(output: string): Promise<void> {
  try {
    await mkdir(output, { mode: 0o700 });
  } catch (error) {
    throw new GantryError('USAGE', `cannot make the folder ${output}: ${messageOf(error)}`, {
      cause: error,
      hint: 'the folder above it must exist',
    });
  }
}

async function write(node: Node, container: ContainerDetail, request: CheckpointRequest, operation: Operation) {
  const { output, tcpEstablished } = request;
  const images = join(output, NAMES.images);
  await mkdir(images, { mode: 0o700 });
  await checkSpace(output, await residentBytes(await processesOf(await freezerOf(container.pid))));
  const layer = await writableLayer(node.config.runtimeSocket, container.snapshotter, container.snapshotKey);
  const { image } = await node.cri.imageStatus(container.imageRef);

  const entry: SourceEntry = {
    role: 'source',
    state: 'frozen',
    operation: operation.id,
    peer: '',
    container: container.id,
    sandbox: container.sandbox.id,
    folder: output,
  };
  await using frozen = await operation.phase('freeze', () => FrozenContainer.freeze(node, container, entry));
  operation.throwIfCancelled();
  try {
    await operation.phase('dump', () => dump(container.id, images, output, { tcpEstablished }));
  } catch (error) {
    await keepLog(node, join(output, 'dump.log'), `${operation.id}-dump.log`);
    throw error;
  }
  await frozen.refreeze();
  operation.throwIfCancelled();
  await operation.phase('save files', () => packLayer(layer, join(output, NAMES.layer), operation.signal));
  const manifest: Manifest = {
    version: 1,
    created: new Date().toISOString(),
    node: node.config.node,
    container: { id: container.id, name: container.name },
    image: { name: container.image, id: image?.id ?? container.imageRef },
    tcpEstablished,
    processes: (await frozen.processes()).length,
    config: Buffer.from(ContainerConfig.encode(container.config).finish()).toString('base64'),
  };
  await writeDurably(join(output, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
  if (request.leaveRunning) return;
  operation.commit();
  await operation.phase('end container', async () => {
    await node.journal.write({ ...entry, state: 'committed' });
    frozen.leaveFrozen();
    await endDumped(node, { ...entry, state: 'committed' });
  });
}

/** The overlay's upper folder as it is: whiteouts are devices, opaque folders are attributes, both only root's to see. */
async function packLayer(layer: string, file: string, signal: AbortSignal): Promise<void> {
  await run(
    'tar',
    ['-C', layer, '--xattrs', '--xattrs-include=*', '--acls', '--numeric-owner', '--sparse', '-cf', file, '.'],
    {
      signal,
      timeoutMs: 600_000,
    },
  );
}

/** Puts a layer that {@link packLayer} wrote into the upper folder of a container that was not started yet. */
export async function unpackLayer(file: string, layer: string): Promise<void> {
  await run('tar', ['-C', layer, '--xattrs', '--xattrs-include=*', '--acls', '--numeric-owner', '-xpf', file], {
    timeoutMs: 600_000,
  });
}
