import { setTimeout as sleep } from 'node:timers/promises';
import type { Node } from '../agent/node.ts';
import { GantryError, messageOf } from '../errors.ts';
import { type ContainerConfig, ContainerState } from '../gen/cri.ts';
import type { Slot } from '../gen/gantry/v1/slots.ts';
import { SLOT_LABEL } from '../proxy/slots/label.ts';
import { freeze, isFrozen, ownFreezer, removeEmptyGroups, thaw } from '../runtime/cgroup.ts';
import { endTask, removeRuntimeRecord, writableLayer } from '../runtime/containerd.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { run } from '../runtime/program.ts';

// containerd reserves name and attempt of a container; kubelet counts up from 0.
const FIRST_ATTEMPT = 2 ** 30;
const DEFAULT_GRACE_SECONDS = 30;
export const GRACE_ANNOTATION = 'io.kubernetes.pod.terminationGracePeriod';
const LOOK_MS = 50;
const COPY_LIMIT_MS = 600_000;

/** The next attempt number for a container of a slot: none that kubelet uses. */
export async function nextAttempt(node: Node, sandbox: string): Promise<number> {
  const attempts = (await node.cri.listContainers())
    .filter(({ podSandboxId }) => podSandboxId === sandbox)
    .map(({ metadata }) => metadata?.attempt ?? 0);
  return Math.max(FIRST_ATTEMPT, ...attempts) + 1;
}

/** Makes a container for a slot, without starting it: by its label whoever finds it knows whose it is. */
export async function create(
  node: Node,
  slot: Slot,
  config: ContainerConfig,
  attempt: number,
  signal?: AbortSignal,
): Promise<string> {
  const { config: sandboxConfig } = await node.cri.describeSandbox(slot.sandboxId, signal);
  const labelled: ContainerConfig = {
    ...config,
    metadata: { name: slot.name, attempt, _unknownFields: {} },
    labels: { ...config.labels, [SLOT_LABEL]: slot.id },
  };
  return node.cri.createContainer(slot.sandboxId, labelled, sandboxConfig, signal);
}

/** The container as the runtime has it; undefined when it has none of that ID. */
export async function find(node: Node, id: string): Promise<ContainerDetail | undefined> {
  if (id === '') return undefined;
  try {
    return await node.cri.describe(id);
  } catch (error) {
    if (error instanceof GantryError && error.reason === 'NOT_FOUND') return undefined;
    throw error;
  }
}

export async function isRunning(node: Node, id: string): Promise<boolean> {
  return (await find(node, id))?.state === ContainerState.CONTAINER_RUNNING;
}

/** Freezes the processes of a container that runs. Idempotent. */
export async function freezeOccupant(container: ContainerDetail): Promise<void> {
  const freezer = await ownFreezer(container);
  if (freezer === undefined) throw new GantryError('NOT_RUNNING', `container ${container.id} has just ended`);
  await freeze(freezer);
}

/** Lets the processes of a container go on, if they are frozen. Idempotent. */
export async function thawOccupant(container: ContainerDetail): Promise<void> {
  const freezer = await ownFreezer(container);
  if (freezer !== undefined && (await isFrozen(freezer))) await thaw(freezer);
}

/** Lets one who was frozen be the occupant again: its log may have been rotated meanwhile, of which it was not told. */
export async function comeBack(node: Node, container: ContainerDetail): Promise<void> {
  await thawOccupant(container);
  await node.cri
    .reopenLog(container.id)
    .catch((error: unknown) => node.log.warn('log-not-reopened', { container: container.id, why: messageOf(error) }));
}

/** Of {@link stopOccupant}. */
export const AS_THE_POD_SAYS = -1;

/** Stops a container. One that is frozen is thawed for its end. Idempotent. @param graceSeconds of the signal, or {@link AS_THE_POD_SAYS} */
export async function stopOccupant(node: Node, container: ContainerDetail, graceSeconds: number): Promise<void> {
  await thawOccupant(container);
  await node.cri.stopContainer(container.id, graceSeconds >= 0 ? graceSeconds : graceOf(container.config));
}

function graceOf({ annotations }: ContainerConfig): number {
  const seconds = Number(annotations[GRACE_ANNOTATION] ?? Number.NaN);
  return Number.isSafeInteger(seconds) && seconds >= 0 ? seconds : DEFAULT_GRACE_SECONDS;
}

/** Removes a container with everything it has, also one that is frozen. Idempotent. */
export async function removeOccupant(node: Node, id: string): Promise<void> {
  const container = await find(node, id);
  if (container?.state === ContainerState.CONTAINER_RUNNING) await stopOccupant(node, container, 0);
  if (container !== undefined) await removeWithTask(node, id);
  await removeRuntimeRecord(id);
  await removeEmptyGroups(container?.spec.linux?.cgroupsPath ?? '');
}

/** Where a start was cut off at its very end, it runs for containerd, and for its CRI, which refuses to remove it then, it does not. */
async function removeWithTask(node: Node, id: string): Promise<void> {
  await node.cri.removeContainer(id).catch(async (error: unknown) => {
    // Without one it was something else.
    await endTask(node.config.runtimeSocket, id).catch(() => Promise.reject(error));
    await node.cri.removeContainer(id);
  });
}

/** Errors: SWAP_FAILED, when it does not stay up for so long; the signal's reason. */
export async function staysRunning(node: Node, id: string, settleMs: number, signal?: AbortSignal): Promise<void> {
  const until = performance.now() + settleMs;
  for (;;) {
    signal?.throwIfAborted();
    const { status } = await node.cri.containerStatus(id);
    if (status?.state !== ContainerState.CONTAINER_RUNNING) {
      const how = status?.reason ? ` (${status.reason}${status.message ? `: ${status.message}` : ''})` : '';
      throw new GantryError('SWAP_FAILED', `the new container ended with exit code ${status?.exitCode ?? '?'}${how}`, {
        hint: "see the container's log",
      });
    }
    const leftMs = until - performance.now();
    if (leftMs <= 0) return;
    await sleep(Math.min(leftMs, LOOK_MS));
  }
}

/** Gives a container that was not started yet the files that another one has written. */
export async function copyLayer(node: Node, from: ContainerDetail, to: string): Promise<void> {
  const target = await node.cri.describe(to);
  const [source, upper] = await Promise.all(
    [from, target].map(({ snapshotter, snapshotKey }) =>
      writableLayer(node.config.runtimeSocket, snapshotter, snapshotKey),
    ),
  );
  // As the files of a migration: attributes of the overlay and its devices are part of them.
  await run('rsync', ['-aHAXS', '--numeric-ids', `${source}/`, `${upper}/`], { timeoutMs: COPY_LIMIT_MS });
}
