import type { Node } from '../agent/node.ts';
import { GantryError } from '../errors.ts';
import { ContainerState, PodSandboxState } from '../gen/cri.ts';
import { locateReal } from '../surgery/locate.ts';

/** What a user means by an ID or a name: a container, or a pod with all its containers that run. */
export interface Target {
  readonly sandbox: string;
  /** IDs. */
  readonly containers: readonly string[];
  readonly isPod: boolean;
}

/** A container by ID or name; a pod by the ID of its sandbox, or by its name where no container has that. */
export async function targetOf(node: Node, wanted: string, signal: AbortSignal): Promise<Target> {
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
    // Those that are retained for a rollback are not the pod's any more.
    const hidden = new Set((await node.slots.list().catch(() => [])).flatMap((slot) => slot.hidden));
    const containers = (await node.cri.listContainers(signal))
      .filter(({ podSandboxId, state }) => podSandboxId === pod.id && state === ContainerState.CONTAINER_RUNNING)
      .map(({ id }) => id)
      .filter((id) => !hidden.has(id));
    if (containers.length === 0) throw new GantryError('NOT_RUNNING', `no container of pod ${wanted} is running`);
    return { sandbox: pod.id, containers, isPod: true };
  }
}

/** Keeps others off what an operation works on, until disposed. Errors: BUSY. */
export function occupy(node: Node, { sandbox, containers, isPod }: Target, wanted: string): Disposable {
  if ([sandbox, ...containers].some((id) => node.busy.has(id)))
    throw new GantryError('BUSY', `another operation works on ${wanted}`);
  const taken = isPod ? [sandbox, ...containers] : containers;
  for (const id of taken) node.busy.add(id);
  return {
    [Symbol.dispose]: () => {
      for (const id of taken) node.busy.delete(id);
    },
  };
}
