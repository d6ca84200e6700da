import { setTimeout as sleep } from 'node:timers/promises';
import type { Node } from '../agent/node.ts';
import { FrozenPod, networkOf } from '../checkpoint/freeze.ts';
import { exists } from '../durable.ts';
import { messageOf } from '../errors.ts';
import { forgetConnections } from '../network/connections.ts';
import { keepReserved } from '../network/ipam.ts';
import { open } from '../network/shield.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { findProcesses } from '../runtime/processes.ts';
import { find } from '../surgery/occupants.ts';
import { connectPeer } from '../transfer/peer.ts';
import { startAgain } from './cold.ts';
import type { SourceEntry } from './journal.ts';
import { type Answer, afterOutcome } from './protocol.ts';
import { retain } from './retain.ts';
import { nowOrLater, untilDone } from './retry.ts';

/**
 * Brings a committed migration to its end on the source: removes the source once the target serves, thaws it once the
 * target durably says that it failed (or knows nothing: it rolled back before it saw the commit), and asks again for as
 * long as nobody can say. Also what a restarted agent does with such an entry.
 */
export async function settle(node: Node, entry: SourceEntry, known?: Answer): Promise<'moved' | 'thawed'> {
  for (let attempt = 0; ; attempt++) {
    const outcome = known ?? (await askOutcome(node, entry, attempt));
    switch (afterOutcome(outcome)) {
      case 'end':
        await untilDone(node, 'end-source', () => endSource(node, entry));
        return 'moved';
      case 'thaw':
        await untilDone(node, 'thaw-source', () => thawSource(node, entry));
        return 'thawed';
    }
    // "preparing" and "resuming" end soon; a peer that cannot be reached is asked ever more rarely.
    await sleep(outcome === 'unreachable' ? Math.min(500 * (attempt + 1), 10_000) : 100);
  }
}

/** Lets a frozen source go on, or starts a stopped one again: the rollback, also of an agent that died before its commit. */
export async function thawSource(node: Node, entry: SourceEntry): Promise<void> {
  for (const container of entry.containers) await waitForDump(container);
  const { containers, netns } = await describe(node, entry);
  const frozen = entry.mode === 'cold' ? undefined : await FrozenPod.find(containers);
  await frozen?.[Symbol.asyncDispose]();
  // Those that have all ended have left their pod shut.
  if (frozen === undefined && netns !== '' && (await exists(netns))) await open(netns);
  if (entry.mode === 'cold') await startAgain(node, entry);
  await node.migrations.records.change('source', entry.operation, { state: 'rolled-back' });
  if (entry.state === 'committed') {
    const settled: SourceEntry = { ...entry, state: 'settled' };
    await node.journal.write(settled);
    await conclude(node, settled);
  } else {
    await node.journal.remove(entry);
  }
  node.log.warn('rolled-back', { operation: entry.operation, containers: entry.containers, peer: entry.peer });
}

/** Ends containers whose checkpoint is complete and that were not to go on: what stopping them would have left. */
export async function endDumped(node: Node, entry: SourceEntry): Promise<void> {
  const { containers, netns } = await describe(node, entry);
  const frozen = await FrozenPod.find(containers);
  if (frozen !== undefined && entry.keepsConnections === true && netns !== '') {
    await forgetConnections(netns, await frozen.allProcesses()).catch((error: unknown) =>
      node.log.warn('connections-not-kept', { operation: entry.operation, error: messageOf(error) }),
    );
  }
  await frozen?.end();
  for (const { id } of containers) await node.cri.stopContainer(id, 0);
  // Other containers of the sandbox go on, but nobody speaks for one that is still to be ended.
  const isLast = node.journal
    .pending('source')
    .every(({ sandbox, operation }) => sandbox !== entry.sandbox || operation === entry.operation);
  if (netns !== '' && isLast) await open(netns);
  await node.journal.remove(entry);
}

/**
 * Leaves containers frozen whose checkpoint is complete. Their network is open: the kernel answers for them, and whatever
 * else comes into their sandbox is reached.
 */
export async function leavePaused(node: Node, entry: SourceEntry): Promise<void> {
  const { netns } = await describe(node, entry);
  if (netns !== '') await open(netns);
  await node.journal.remove(entry);
}

/** What the target has taken over ends here, and its last state is kept. */
async function endSource(node: Node, entry: SourceEntry): Promise<void> {
  const { containers, netns } = await describe(node, entry);
  const { operation, peer, sandbox, sandboxMetadata, addresses = [] } = entry;
  await keepReserved(node.config.ipamDir, addresses, operation);
  // Before the state is kept and the sandbox removed, which takes a while: clients wait for it.
  if (containers.length > 0 && sandboxMetadata !== undefined)
    await node.identities.leave({ ...sandboxMetadata, operation, peer, sandbox, netns, addresses });
  const retained = await retain(node, entry, containers);
  await (await FrozenPod.find(containers))?.end();
  await node.cri.removeSandbox(sandbox);
  await node.migrations.records.change('source', operation, { state: 'serving' });
  // Without a kept state it is overdue at once.
  await node.journal.write({ ...entry, state: 'retained', ...(retained !== undefined && { retained }) });
  node.log.info('migration-done', { operation, containers: entry.containers, peer });
}

/** Nothing is left to do here but to let the target forget it, too: now, or as soon as it can be reached. */
export async function conclude(node: Node, entry: SourceEntry): Promise<void> {
  await nowOrLater(node, `tell ${entry.peer}`, () => forgetBoth(node, entry));
}

/** The target first: one that has not heard of it is told again. Errors: those of the connection. */
export async function forgetBoth(node: Node, entry: SourceEntry): Promise<void> {
  await tellDone(node, entry);
  await node.journal.remove(entry);
}

/** Those containers of an entry that are still there, and their pod's network; "" without one. */
async function describe(node: Node, entry: SourceEntry): Promise<{ containers: ContainerDetail[]; netns: string }> {
  const containers: ContainerDetail[] = [];
  for (const id of entry.containers) {
    const found = await find(node, id);
    if (found !== undefined) containers.push(found);
  }
  const pid = containers[0]?.sandbox.pid ?? 0;
  return { containers, netns: pid > 0 ? networkOf(pid) : '' };
}

/** What has become of a migration, by its target. @param attempt the log hears of every tenth that fails */
export async function askOutcome(node: Node, { peer, operation }: SourceEntry, attempt: number): Promise<Answer> {
  try {
    const { socket, outcome } = await connectPeer(node.config, peer, { kind: 'outcome', operation });
    socket.destroy();
    // Of a peer that says nothing nothing is known.
    return (outcome || 'unreachable') as Answer;
  } catch (error) {
    if (attempt % 10 === 0) node.log.warn('migration-outcome-unknown', { operation, peer, why: messageOf(error) });
    return 'unreachable';
  }
}

/** The target keeps its entry until it hears this. */
export async function tellDone(node: Node, { peer, operation }: SourceEntry): Promise<void> {
  const { socket } = await connectPeer(node.config, peer, { kind: 'done', operation });
  socket.destroy();
}

/**
 * A dump goes on when its agent dies, and at its end CRIU writes FROZEN back: thawing before that would not last.
 * Bounded by the dump's own limit.
 */
async function waitForDump(container: string): Promise<void> {
  for (let round = 0; round < 6000 && (await isDumping(container)); round++) await sleep(100);
}

async function isDumping(container: string): Promise<boolean> {
  const dumps = await findProcesses((args) => args.includes('checkpoint') && args.includes(container));
  return dumps.length > 0;
}
