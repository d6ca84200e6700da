import { setTimeout as sleep } from 'node:timers/promises';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { GantryError, messageOf } from '../errors.ts';
import type { Result } from '../gen/gantry/v1/agent.ts';
import { isReserved, release } from '../network/ipam.ts';
import type { SourceEntry } from './journal.ts';
import { afterDeparture } from './protocol.ts';
import { alone, expire, overdue } from './retain.ts';
import { askOutcome, forgetBoth, tellDone } from './settle.ts';

const GIB = 1024 ** 3;

/**
 * Looks after what is kept of pods that have moved away, until the signal: ends retentions that are over, and frees addresses
 * whose pods are gone.
 */
export async function keepRetained(node: Node, signal: AbortSignal): Promise<void> {
  for (let round = 0; !signal.aborted; round++) {
    await sleep(node.config.retention.lookSeconds * 1000, undefined, { signal }).catch(() => undefined);
    if (!signal.aborted) await look(node, round).catch((error: unknown) => tell(node, error));
  }
}

function tell(node: Node, error: unknown): void {
  node.log.warn('retention-failed', { why: messageOf(error) });
}

async function look(node: Node, round: number): Promise<void> {
  const free = () => node.journal.pending('source').filter(({ operation }) => !node.busy.has(operation));
  const expired = overdue(free(), Date.now(), node.config.retention.maxGiB * GIB);
  for (const { operation } of expired) await alone(node, operation, (entry) => expire(node, entry));
  const reserved = free().filter(({ state }) => state === 'reserved');
  // Each for itself: a peer that cannot be reached takes its time.
  await Promise.all(reserved.map((entry) => watch(node, entry, round).catch((error: unknown) => tell(node, error))));
}

/** The address is the pod's until the target says that it is gone. */
async function watch(node: Node, entry: SourceEntry, round: number): Promise<void> {
  const { addresses = [], operation } = entry;
  const { ipamDir } = node.config;
  const isHome = ipamDir !== '' && !(await isReserved(ipamDir, addresses, operation));
  if (!isHome && afterDeparture(await askOutcome(node, entry, round)) === 'ask') return;
  await release(ipamDir, addresses, operation);
  await forgetBoth(node, entry);
}

/** `gantry commit`: nobody will want the pod back as it was. Errors: NOT_FOUND, BUSY, CONFLICT. */
export async function commit(node: Node, migration: string, operation: Operation): Promise<Result> {
  return alone(node, migration, async (entry) => {
    refuseUnlessOver(entry);
    if (entry.state === 'retained') await operation.phase('remove the kept state', () => expire(node, entry));
    return operation.result({ node: node.config.node, sandboxId: entry.sandbox });
  });
}

/**
 * `gantry release`: frees the address of a pod that is gone together with its node, which will not tell. Errors: NOT_FOUND,
 * BUSY, CONFLICT.
 */
export async function releaseAddresses(node: Node, migration: string, operation: Operation): Promise<Result> {
  return alone(node, migration, async (entry) => {
    refuseUnlessOver(entry);
    const { addresses = [] } = entry;
    await operation.phase('release', async () => {
      const reserved = entry.state === 'retained' ? await expire(node, entry) : entry;
      await release(node.config.ipamDir, addresses, migration);
      // The target may never be there again: it is told if it is.
      await node.journal.remove(reserved);
      tellDone(node, reserved).catch((error: unknown) => tell(node, error));
    });
    return operation.result({ node: node.config.node, addresses: addresses.map(({ local }) => local) });
  });
}

function refuseUnlessOver({ operation, state }: SourceEntry): void {
  if (state === 'retained' || state === 'reserved') return;
  throw new GantryError('CONFLICT', `migration ${operation} is not over (it is ${state})`);
}
