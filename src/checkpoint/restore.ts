import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { GantryError } from '../errors.ts';
import { ContainerConfig } from '../gen/cri.ts';
import type { RestoreRequest, Result } from '../gen/gantry/v1/agent.ts';
import type { RestoreEntry } from '../migrate/journal.ts';
import { untilDone } from '../migrate/retry.ts';
import { writableLayer } from '../runtime/containerd.ts';
import { criuVersion } from '../runtime/criu.ts';
import { unpackLayer } from './checkpoint.ts';
import { type Manifest, NAMES, readManifest } from './manifest.ts';
import { PoisedContainer, verifyRunning } from './restore-container.ts';

/**
 * Creates a container in a sandbox that exists, through CRI, and starts it from a checkpoint folder. A failure removes
 * the container again; the folder stays as it is.
 */
export async function restore(node: Node, request: RestoreRequest, operation: Operation): Promise<Result> {
  const { directory } = request;
  const images = join(directory, NAMES.images);
  const manifest = await readManifest(directory);
  const sandbox = await operation.phase('check', async () => {
    await criuVersion();
    const found = await node.cri.findSandbox(request.sandbox, operation.signal);
    await checkImage(node, manifest);
    return node.cri.describeSandbox(found.id, operation.signal);
  });
  const config = await configFor(node, manifest, sandbox.id);
  const entry: RestoreEntry = {
    role: 'restore',
    state: 'creating',
    operation: operation.id,
    peer: '',
    sandbox: sandbox.id,
    name: config.metadata?.name ?? '',
    attempt: config.metadata?.attempt ?? 0,
  };
  await node.journal.write(entry);
  try {
    const container = await operation.phase('create', () =>
      node.cri.createContainer(sandbox.id, config, sandbox.config, operation.signal),
    );
    const { snapshotter, snapshotKey } = await node.cri.describe(container);
    const layer = await writableLayer(node.config.runtimeSocket, snapshotter, snapshotKey);
    await operation.phase('restore files', () => unpackLayer(join(directory, NAMES.layer), layer));
    operation.throwIfCancelled();
    await operation.phase('restore', async () => {
      await using poised = await PoisedContainer.restore(node, operation.id, container, images, manifest);
      operation.commit();
      await poised.resume();
    });
    await operation.phase('verify', () => verifyRunning(node, container, manifest.processes));
    await node.journal.remove(entry);
    return operation.result({ containerId: container, sandboxId: sandbox.id, node: node.config.node, directory });
  } catch (error) {
    await untilDone(node, 'remove-restored', () => removeRestored(node, entry));
    throw error;
  }
}

/** Removes what a restore has made so far, found by what the runtime reserves for it. */
export async function removeRestored(node: Node, entry: RestoreEntry): Promise<void> {
  for (const { id, podSandboxId, metadata } of await node.cri.listContainers()) {
    const same = podSandboxId === entry.sandbox && metadata?.name === entry.name && metadata.attempt === entry.attempt;
    if (same) await node.cri.removeContainer(id);
  }
  await node.journal.remove(entry);
}

/** Errors: IMAGE_MISSING. */
export async function checkImage(node: Node, { image }: Manifest): Promise<void> {
  const { image: here } = await node.cri.imageStatus(image.id);
  if (here === undefined) {
    throw new GantryError('IMAGE_MISSING', `node ${node.config.node} does not have image ${image.name} (${image.id})`, {
      hint: 'pull that very image first',
    });
  }
}

/** The checkpoint's configuration with the next attempt number that is free: the runtime reserves name and attempt. */
async function configFor(node: Node, manifest: Manifest, sandbox: string): Promise<ContainerConfig> {
  const config = ContainerConfig.decode(Buffer.from(manifest.config, 'base64'));
  const taken = (await node.cri.listContainers())
    .filter(({ podSandboxId, metadata }) => podSandboxId === sandbox && metadata?.name === config.metadata?.name)
    .map(({ metadata }) => metadata?.attempt ?? 0);
  if (config.metadata !== undefined && taken.length > 0) {
    config.metadata.attempt = Math.max(...taken) + 1;
    config.logPath = `${config.metadata.name}/${config.metadata.attempt}.log`;
  }
  if (config.image !== undefined) {
    config.image.image = manifest.image.id;
    config.image.userSpecifiedImage ||= manifest.image.name;
  }
  return config;
}
