import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { GantryError } from '../errors.ts';
import type { Result, ResumeRequest } from '../gen/gantry/v1/agent.ts';
import { isFrozen, ownFreezer, thaw } from '../runtime/cgroup.ts';
import { occupy, targetOf } from './target.ts';

/**
 * Lets a container go on, or all of a pod, that a checkpoint has left paused. One that runs already is no error, but told.
 * Errors: NOT_FOUND, NOT_RUNNING, BUSY.
 */
export async function resume(node: Node, request: ResumeRequest, operation: Operation): Promise<Result> {
  const target = await targetOf(node, request.container, operation.signal);
  const { sandbox, containers, isPod } = target;
  using _taken = occupy(node, target, request.container);
  const moving = node.journal.pending('source').find((entry) => entry.containers.some((id) => containers.includes(id)));
  if (moving !== undefined)
    throw new GantryError('BUSY', `${request.container} is being moved, and may run elsewhere already`);
  const warnings: string[] = [];
  await operation.phase('resume', async () => {
    const freezers = [];
    for (const id of containers) {
      const detail = await node.cri.describe(id, operation.signal);
      const freezer = await ownFreezer(detail);
      if (freezer === undefined) throw new GantryError('NOT_RUNNING', `container ${detail.name} has ended`);
      if (await isFrozen(freezer)) freezers.push(freezer);
      else warnings.push(`container ${detail.name} was not paused`);
    }
    // Together: they may talk to each other.
    await Promise.all(freezers.map(thaw));
  });
  return operation.result({
    containerId: isPod ? '' : (containers[0] ?? ''),
    sandboxId: sandbox,
    node: node.config.node,
    warnings,
  });
}
