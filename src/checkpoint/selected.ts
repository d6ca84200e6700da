import { readdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Node } from '../agent/node.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerState, PodSandboxState } from '../gen/cri.ts';
import type { CheckpointRequest } from '../gen/gantry/v1/agent.ts';
import type { Target } from './target.ts';

/**
 * A pod with those of its containers that somebody has chosen, all by their whole IDs, for a checkpoint that is to be alone
 * in its folder. Errors: NOT_FOUND, NOT_RUNNING; NOT_FITTING, for another folder; USAGE, for a container of another pod or
 * one that is named twice.
 */
export async function selectedOf(
  node: Node,
  { container: sandbox, containers, archive }: CheckpointRequest,
  signal: AbortSignal,
): Promise<Target> {
  await checkEmpty(dirname(archive));
  const pod = (await node.cri.listSandboxes(signal)).find(({ id }) => id === sandbox);
  if (pod === undefined) throw new GantryError('NOT_FOUND', `there is no sandbox ${sandbox}`);
  if (pod.state !== PodSandboxState.SANDBOX_READY)
    throw new GantryError('NOT_RUNNING', `sandbox ${sandbox} is not ready`);
  if (new Set(containers).size !== containers.length) throw new GantryError('USAGE', 'a container is named twice');
  const all = new Map((await node.cri.listContainers(signal)).map((one) => [one.id, one]));
  for (const id of containers) {
    const container = all.get(id);
    if (container === undefined) throw new GantryError('NOT_FOUND', `there is no container ${id}`);
    if (container.podSandboxId !== sandbox)
      throw new GantryError('USAGE', `container ${id} is not in sandbox ${sandbox}`);
    if (container.state !== ContainerState.CONTAINER_RUNNING)
      throw new GantryError('NOT_RUNNING', `container ${id} is not running`);
  }
  return { sandbox, containers, isPod: true };
}

async function checkEmpty(folder: string): Promise<void> {
  const names = await readdir(folder).catch((error: unknown) => {
    throw new GantryError('NOT_FITTING', `${folder} is not an empty folder: ${messageOf(error)}`, { cause: error });
  });
  if (names.length > 0) throw new GantryError('NOT_FITTING', `${folder} is not empty`);
}
