import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Node } from '../agent/node.ts';
import { Operation } from '../agent/operation.ts';
import { contentOf } from '../archive/reader.ts';
import { restoreOriginal } from '../checkpoint/restore.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerState } from '../gen/cri.ts';
import { type MigrationRequest, RestoreRequest, type Result } from '../gen/gantry/v1/agent.ts';
import { connectPeer } from '../transfer/peer.ts';
import type { SourceEntry } from './journal.ts';
import { sandboxesOf, serve } from './placeholder.ts';
import { type Answer, afterRevert } from './protocol.ts';
import { alone } from './retain.ts';
import { conclude } from './settle.ts';

const ASK_LIMIT_MS = 60_000;

/** What is to be known of a rollback further to its entry. */
interface Wish {
  readonly identities: readonly string[];
  /** Somebody says that the target is lost for good: it is not asked. */
  readonly isLost: boolean;
}

/**
 * Brings a pod back as it was when it was frozen: the target's copy is ended first, and durably, then the kept state
 * starts here, with its address. What the pod has done since is lost.
 * Errors: NOT_FOUND, BUSY, CONFLICT (nothing is kept any more, or the pod has moved on), USAGE (of an encrypted state, without
 * its key), OUTCOME_UNKNOWN, those of a restore.
 */
export async function rollBackMigration(node: Node, request: MigrationRequest, operation: Operation): Promise<Result> {
  return alone(node, request.migration, (entry) => {
    const { operation: migration, state, retained } = entry;
    if (retained === undefined || !['retained', 'reverting'].includes(state)) {
      throw new GantryError('CONFLICT', `of migration ${migration} no state is kept any more (it is ${state})`, {
        hint: 'a checkpoint archive can be restored with gantry restore',
      });
    }
    return work(node, entry, { identities: request.identities, isLost: request.peerIsLost }, operation);
  });
}

/** Goes on with a rollback that an agent of before has begun. An encrypted state waits for who has its key. */
export async function revert(node: Node, entry: SourceEntry): Promise<void> {
  if (node.config.retention.recipients.length > 0) return;
  const operation = new Operation(entry.operation);
  try {
    await work(node, entry, { identities: [], isLost: false }, operation);
  } catch (error) {
    // It has moved on: the entry says so.
    if (!(error instanceof GantryError && error.reason === 'CONFLICT')) throw error;
  }
}

async function work(node: Node, entry: SourceEntry, wish: Wish, operation: Operation): Promise<Result> {
  const reverting: SourceEntry = { ...entry, state: 'reverting' };
  if (entry.state !== 'reverting') {
    await checkOpens(entry, wish);
    await node.journal.write(reverting);
  }
  operation.commit();
  if (!wish.isLost) {
    const answer = await operation.phase('end the copy', () => endCopy(node, entry));
    if (answer === 'keep') {
      await node.journal.write({ ...entry, state: 'retained' });
      throw new GantryError(
        'CONFLICT',
        `the pod is not ${entry.peer}'s to end: it has moved on, or was given up there`,
        {
          hint: `gantry migrations on ${entry.peer} shows where it went`,
        },
      );
    }
  }
  const result = await start(node, reverting, wish, operation);
  await node.migrations.records.change('source', entry.operation, { state: 'rolled-back' });
  const { retained, ...rest } = reverting;
  const settled: SourceEntry = { ...rest, state: 'settled' };
  await node.journal.write(settled);
  if (retained !== undefined) await rm(retained.archive, { force: true });
  await conclude(node, settled);
  return result;
}

/** Before the copy ends: there would be none at all while nobody can open the state. Errors: NOT_FOUND, USAGE, BAD_ARCHIVE. */
async function checkOpens({ retained }: SourceEntry, { identities }: Wish): Promise<void> {
  for await (const _ of contentOf(retained?.archive ?? '', { identities })) return;
}

/** Errors: OUTCOME_UNKNOWN. */
async function endCopy(node: Node, { peer, operation }: SourceEntry): Promise<'start' | 'keep'> {
  const end = Date.now() + ASK_LIMIT_MS;
  let why = '';
  for (let attempt = 0; attempt === 0 || Date.now() < end; attempt++) {
    let answer: Answer = 'unreachable';
    try {
      const { socket, outcome } = await connectPeer(node.config, peer, { kind: 'revert', operation });
      socket.destroy();
      answer = (outcome || 'unreachable') as Answer;
      why = `it says "${answer}"`;
    } catch (error) {
      why = messageOf(error);
    }
    const next = afterRevert(answer);
    if (next !== 'ask') return next;
    await sleep(500);
  }
  throw new GantryError('OUTCOME_UNKNOWN', `peer ${peer} has not said that its copy has ended: ${why}`, {
    hint: 'repeat the command; --peer-is-lost when that node is off and stays off: a second copy would run otherwise',
  });
}

/** Repeating it is fine: one that runs already only has its network opened. */
async function start(node: Node, entry: SourceEntry, wish: Wish, operation: Operation): Promise<Result> {
  const { operation: migration, peer, sandboxMetadata, addresses = [], retained } = entry;
  if (sandboxMetadata === undefined)
    throw new GantryError('INTERNAL', `migration ${migration} does not say of which pod`);
  const moved = { operation: migration, peer, sandboxMetadata, addresses };
  const [there] = await sandboxesOf(node, sandboxMetadata);
  if (there !== undefined && (await isRunning(node, there, entry.containers.length))) {
    await serve(node, { ...moved, sandbox: there }, addresses);
    return operation.result({ sandboxId: there, node: node.config.node });
  }
  // Something that was left before it was whole.
  if (there !== undefined) await node.cri.removeSandbox(there);
  const request = RestoreRequest.fromPartial({
    source: retained?.archive ?? '',
    identities: [...wish.identities],
    // It is this node's own.
    trustConfig: true,
    allowSetuid: true,
  });
  return restoreOriginal(node, request, operation, moved);
}

async function isRunning(node: Node, sandbox: string, containers: number): Promise<boolean> {
  const running = (await node.cri.listContainers()).filter(
    ({ podSandboxId, state }) => podSandboxId === sandbox && state === ContainerState.CONTAINER_RUNNING,
  );
  return running.length >= containers;
}
