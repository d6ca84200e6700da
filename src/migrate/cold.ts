import { readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { networkOf } from '../checkpoint/freeze.ts';
import { GantryError } from '../errors.ts';
import { ContainerState, PodSandboxState } from '../gen/cri.ts';
import { shut } from '../network/shield.ts';
import { writableLayer } from '../runtime/containerd.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import type { SourceEntry } from './journal.ts';

/** What kubelet gives a pod that says nothing (terminationGracePeriodSeconds). */
const DEFAULT_GRACE_SECONDS = 30;
/** Of kubelet's, on each container (pkg/kubelet/kuberuntime/labels.go). */
const GRACE = 'io.kubernetes.pod.terminationGracePeriod';

/** How long the containers have from their stop signal on: as asked for, or as their pod says. */
export function graceOf(containers: readonly ContainerDetail[], wanted: number | undefined): number {
  if (wanted !== undefined) return wanted;
  const told = containers
    .map(({ config }) => Number(config.annotations[GRACE] ?? Number.NaN))
    .filter((one) => one >= 0);
  return told.length === 0 ? DEFAULT_GRACE_SECONDS : Math.max(...told);
}

/** Writes the journal, and stops the containers together, each with its own signal. Their network is shut once they have ended. */
export async function stopPod(node: Node, containers: readonly ContainerDetail[], entry: SourceEntry): Promise<void> {
  await node.journal.write(entry);
  const stopping = containers.map(({ id }) => node.cri.stopContainer(id, entry.graceSeconds ?? DEFAULT_GRACE_SECONDS));
  const [failed] = (await Promise.allSettled(stopping)).filter((one) => one.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
  await shut(networkOf((containers[0] as ContainerDetail).sandbox.pid));
}

/**
 * Starts stopped containers again where they were: each as its own next attempt, as kubelet would, but with the files that
 * the one before has written. What still runs is stopped first: it may have had its signal. Idempotent.
 */
export async function startAgain(node: Node, { containers, graceSeconds }: SourceEntry): Promise<void> {
  for (const id of containers) {
    const old = await node.cri.describe(id).catch((error: unknown) => {
      // The next one has its files, and runs.
      if (error instanceof GantryError && error.reason === 'NOT_FOUND') return undefined;
      throw error;
    });
    // A reboot has ended the pod: there is nothing to start it in.
    if (old === undefined || old.sandbox.state !== PodSandboxState.SANDBOX_READY) continue;
    await node.cri.stopContainer(id, graceSeconds ?? DEFAULT_GRACE_SECONDS);
    const next = await nextOf(node, old);
    if (next.state === ContainerState.CONTAINER_CREATED) {
      await moveLayer(node, old, next);
      await node.cri.startContainer(next.id);
    }
    await node.cri.removeContainer(id);
    node.log.warn('started-again', { container: next.id, before: id });
  }
}

/** Finds the next attempt of a container, or makes it. */
async function nextOf(node: Node, { name, config, imageRef, sandbox }: ContainerDetail): Promise<ContainerDetail> {
  const attempt = (config.metadata?.attempt ?? 0) + 1;
  const there = (await node.cri.listContainers()).find(
    ({ podSandboxId, metadata }) =>
      podSandboxId === sandbox.id && metadata?.name === name && (metadata.attempt ?? 0) >= attempt,
  );
  if (there !== undefined) return node.cri.describe(there.id);
  const next = {
    ...config,
    metadata: { name, attempt, _unknownFields: {} },
    logPath: join(dirname(config.logPath) === '.' ? '' : dirname(config.logPath), `${attempt}.log`),
    // That very image: the tag may mean another one by now.
    ...(config.image !== undefined && { image: { ...config.image, image: imageRef } }),
  };
  return node.cri.describe(await node.cri.createContainer(sandbox.id, next, sandbox.config));
}

/** Neither is mounted: one has ended, the other was not started yet. One name after another, so that it can be gone on with. */
async function moveLayer({ config }: Node, old: ContainerDetail, next: ContainerDetail): Promise<void> {
  const [from, to] = await Promise.all(
    [old, next].map(({ snapshotter, snapshotKey }) => writableLayer(config.runtimeSocket, snapshotter, snapshotKey)),
  );
  if (from === undefined || to === undefined) return;
  for (const name of await readdir(from)) {
    await rm(join(to, name), { recursive: true, force: true });
    await rename(join(from, name), join(to, name));
  }
}
