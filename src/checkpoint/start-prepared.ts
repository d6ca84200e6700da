import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { IMAGES } from '../archive/layout.ts';
import { exists } from '../durable.ts';
import { GantryError } from '../errors.ts';
import { ContainerState } from '../gen/cri.ts';
import type { Result, StartPreparedRequest } from '../gen/gantry/v1/agent.ts';
import { untilDone } from '../migrate/retry.ts';
import { find } from '../surgery/occupants.ts';
import { forgetPrepared, guard, type Prepared, readPrepared, unguard } from './prepared.ts';
import { PoisedContainer, verifyRunning } from './restore-container.ts';

/**
 * Starts a container that was prepared, from its checkpoint. It starts so or not at all: after a failure it is one whose start
 * failed, or waits to be started as before. Its connections are closed: those with whom it had them come later, or are gone.
 * Errors: NOT_FOUND, NOT_RUNNING, BUSY, RESTORE_FAILED, VERIFICATION_FAILED.
 */
export async function startPrepared(
  node: Node,
  { container }: StartPreparedRequest,
  operation: Operation,
): Promise<Result> {
  const prepared = (await readPrepared(node)).find((one) => one.container === container);
  if (prepared === undefined) throw new GantryError('NOT_FOUND', `container ${container} waits for no checkpoint`);
  if (node.busy.has(container)) throw new GantryError('BUSY', `container ${container} is being started`);
  node.busy.add(container);
  try {
    const { state } = await node.cri.describe(container, operation.signal);
    if (state !== ContainerState.CONTAINER_CREATED)
      throw new GantryError('NOT_RUNNING', `container ${container} has been started before`);
    await run(node, prepared, operation);
    return operation.result({ containerId: container, sandboxId: prepared.sandbox, node: node.config.node });
  } finally {
    try {
      await untilDone(node, 'settle-prepared', () => settle(node, prepared), operation);
    } finally {
      node.busy.delete(container);
    }
  }
}

async function run(node: Node, prepared: Prepared, operation: Operation): Promise<void> {
  const { container, sandbox } = prepared;
  const images = join(prepared.images, IMAGES);
  if (!(await exists(images))) {
    throw new GantryError('RESTORE_FAILED', `the memory of container ${container} is gone`, {
      hint: 'has the node been started anew? Restore the pod once more',
    });
  }
  operation.throwIfCancelled();
  await unguard(node, container);
  await operation.phase('restore', async () => {
    const id = { id: container, sandbox };
    await using poised = await PoisedContainer.restore(node, operation.id, id, { images }, { tcp: 'close' });
    operation.commit();
    await poised.resume();
  });
  try {
    await operation.phase('verify', () => verifyRunning(node, container, prepared.processes));
  } catch (error) {
    await node.cri.stopContainer(container, 0);
    throw error;
  }
}

/** One that can still be started stays guarded; of any other nothing is left. */
async function settle(node: Node, prepared: Prepared): Promise<void> {
  const container = await find(node, prepared.container);
  if (container?.state !== ContainerState.CONTAINER_CREATED) return forgetPrepared(node, prepared);
  await unguard(node, prepared.container);
  await guard(node, prepared.container);
}
