import type { Node } from '../agent/node.ts';
import { GantryError } from '../errors.ts';
import { type Container, ContainerState, PodSandboxState } from '../gen/cri.ts';
import { locateReal } from '../surgery/locate.ts';

/** What is to be checked: containers of one sandbox. */
export interface Subject {
  readonly sandboxId: string;
  readonly containerIds: readonly string[];
}

/**
 * Finds a container, or else a pod by the ID prefix of its sandbox or by its name; a name that both have means the
 * container, unless the pod has more than that one. Errors: NOT_FOUND, NOT_RUNNING, SLOT_EMPTY.
 */
export async function findSubject(node: Node, wanted: string, signal: AbortSignal): Promise<Subject> {
  const [sandboxes, containers] = await Promise.all([node.cri.listSandboxes(signal), node.cri.listContainers(signal)]);
  const byId = sandboxes.filter(({ id }) => wanted.length >= 3 && id.startsWith(wanted));
  const named = sandboxes.filter(({ metadata }) => metadata?.name === wanted);
  const ready = named.filter(({ state }) => state === PodSandboxState.SANDBOX_READY);
  const pods = byId.length > 0 ? byId : ready.length > 0 ? ready : named;
  const container = await locateReal(node, wanted, signal).catch((error: unknown) => {
    const { reason } = GantryError.from(error);
    if (pods.length > 0 && (reason === 'NOT_FOUND' || reason === 'IS_SANDBOX')) return undefined;
    throw error;
  });
  const [pod] = pods;
  const own = pod === undefined ? [] : runningIn(pod.id, containers);
  if (container !== undefined && !(own.length > 1 && own.some(({ id }) => id === container.id))) {
    return { sandboxId: container.podSandboxId, containerIds: [container.id] };
  }
  if (pod === undefined || pods.length > 1) {
    throw new GantryError('NOT_FOUND', `"${wanted}" means ${pods.length} pods`, {
      hint: 'name one by the ID of its sandbox',
    });
  }
  if (own.length === 0)
    throw new GantryError('NOT_RUNNING', `no container of pod ${pod.metadata?.name ?? wanted} runs`);
  return { sandboxId: pod.id, containerIds: own.map(({ id }) => id) };
}

function runningIn(sandbox: string, containers: readonly Container[]): Container[] {
  return containers.filter(
    ({ podSandboxId, state }) => podSandboxId === sandbox && state === ContainerState.CONTAINER_RUNNING,
  );
}
