import { dirname, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { networkOf } from '../checkpoint/freeze.ts';
import { ContainerState, PodSandboxState } from '../gen/cri.ts';
import { shut } from '../network/shield.ts';
import { type ContainerDetail, pinned } from '../runtime/cri.ts';
import { AS_THE_POD_SAYS, copyLayer, find, stopOccupant } from '../surgery/occupants.ts';
import type { SourceEntry } from './journal.ts';

/** Writes the journal, and stops the containers together, each with its own signal. Their network is shut once they have ended. */
export async function stopPod(node: Node, containers: readonly ContainerDetail[], entry: SourceEntry): Promise<void> {
  await node.journal.write(entry);
  const { graceSeconds = AS_THE_POD_SAYS } = entry;
  const stopping = containers.map((container) => stopOccupant(node, container, graceSeconds));
  const [failed] = (await Promise.allSettled(stopping)).filter((one) => one.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
  await shut(networkOf((containers[0] as ContainerDetail).sandbox.pid));
}

/**
 * Starts stopped containers again where they were: each as its own next attempt, as kubelet would, but with the files that
 * the one before has written. What still runs is stopped first: it may have had its signal. Idempotent.
 */
export async function startAgain(
  node: Node,
  { containers, graceSeconds = AS_THE_POD_SAYS }: SourceEntry,
): Promise<void> {
  for (const id of containers) {
    // Once it is gone the next one has its files, and runs.
    const old = await find(node, id);
    // A reboot has ended the pod: there is nothing to start it in.
    if (old?.sandbox.state !== PodSandboxState.SANDBOX_READY) continue;
    await stopOccupant(node, old, graceSeconds);
    const next = await nextOf(node, old);
    if (next.state === ContainerState.CONTAINER_CREATED) {
      await copyLayer(node, old, next.id);
      await node.cri.startContainer(next.id);
    }
    await node.cri.removeContainer(id);
    node.log.warn('started-again', { container: next.id, before: id });
  }
}

/** Finds the next attempt of a container, or makes it. */
async function nextOf(
  node: Node,
  { name, config, image, imageRef, sandbox }: ContainerDetail,
): Promise<ContainerDetail> {
  const attempt = (config.metadata?.attempt ?? 0) + 1;
  const there = (await node.cri.listContainers()).find(
    ({ podSandboxId, metadata }) =>
      podSandboxId === sandbox.id && metadata?.name === name && (metadata.attempt ?? 0) >= attempt,
  );
  if (there !== undefined) return node.cri.describe(there.id);
  const next = {
    ...pinned(config, { id: imageRef, name: image }),
    metadata: { name, attempt, _unknownFields: {} },
    logPath: join(dirname(config.logPath), `${attempt}.log`),
  };
  return node.cri.describe(await node.cri.createContainer(sandbox.id, next, sandbox.config));
}
