import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { drain } from '../archive/pump.ts';
import { networkOf } from '../checkpoint/freeze.ts';
import { folderOfImages } from '../checkpoint/images.ts';
import { recoverPrepared } from '../checkpoint/prepared.ts';
import { removeRestored } from '../checkpoint/restore.ts';
import { letGo, verifyRunning } from '../checkpoint/restore-container.ts';
import { emptyFolder, exists } from '../durable.ts';
import { messageOf } from '../errors.ts';
import { PodSandboxState } from '../gen/cri.ts';
import { addressesOf } from '../network/address.ts';
import { shut } from '../network/shield.ts';
import { endRestores } from '../runtime/ticket.ts';
import type { Entry, OutputEntry, SourceEntry, TargetEntry } from './journal.ts';
import { removePlaceholder, serve } from './placeholder.ts';
import { sourceRecovery, targetRecovery } from './protocol.ts';
import { removeOrphans } from './retain.ts';
import { untilDone } from './retry.ts';
import { revert } from './revert.ts';
import { conclude, endDumped, leavePaused, settle, thawSource } from './settle.ts';

/**
 * What an agent does with the journal of one that died, before it takes any call. What needs the peer goes on in the
 * background. Nothing of the old agent's conversations is left: their connections ended with it.
 */
export async function recover(node: Node): Promise<void> {
  const { imageDir, runDir } = node.config;
  const spent = join(runDir, 'spent');
  // CRIU goes on when its agent dies, and its images go into pipes of that one's.
  using _drained = drain(await fifosBelow(imageDir));
  // First: a restore that goes on without its agent must not come alive after it was said to have failed.
  await endRestores(spent);
  const entries = await node.journal.load();
  // What only this node has to say is done before the first call is taken.
  const needsPeer = (entry: Entry) =>
    entry.role === 'source' && ['committed', 'reverting', 'settled'].includes(entry.state) && entry.peer !== '';
  const asking = entries.filter(needsPeer) as SourceEntry[];
  await node.migrations.records.cutOff(({ side, operation }) => node.journal.find(side, operation) !== undefined);
  for (const entry of asking) for (const id of workedOn(entry)) node.busy.add(id);
  for (const entry of entries) if (!needsPeer(entry)) await recoverOne(node, entry);
  const kept = new Set([...(await recoverPrepared(node)), ...asking.map(({ operation }) => `${operation}.source`)]);
  for (const folder of [imageDir, join(runDir, 'tickets')]) await emptyFolder(folder, kept);
  await emptyFolder(spent);
  await removeOrphans(node);
  for (const entry of asking) {
    const free = () => {
      for (const id of workedOn(entry)) node.busy.delete(id);
    };
    recoverOne(node, entry).then(free, free);
  }
}

function workedOn({ operation, sandbox, containers }: SourceEntry): string[] {
  return [operation, sandbox, ...containers];
}

async function recoverOne(node: Node, entry: Entry): Promise<void> {
  const key = `${entry.role} ${entry.operation}`;
  node.log.warn('recovering', { operation: entry.operation, role: entry.role, state: entry.state });
  try {
    await untilDone(node, `recover ${key}`, () => recoverEntry(node, entry));
  } catch (error) {
    node.log.error('recovery-given-up', { key, why: messageOf(error) });
  }
}

/** Of folders of images. */
async function fifosBelow(folder: string): Promise<string[]> {
  if (!(await exists(folder))) return [];
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFIFO()).map(({ parentPath, name }) => join(parentPath, name));
}

function recoverEntry(node: Node, entry: Entry): Promise<void> {
  switch (entry.role) {
    case 'source':
      return recoverSource(node, entry);
    case 'target':
      return recoverTarget(node, entry);
    case 'restore':
      return removeRestored(node, entry);
    case 'output':
      return removeOutput(node, entry);
  }
}

async function recoverSource(node: Node, entry: SourceEntry): Promise<void> {
  switch (sourceRecovery(entry.state)) {
    case 'thaw':
      return thawSource(node, entry);
    case 'let go':
      return leavePaused(node, entry);
    case 'settle':
      if (entry.peer === '') return endDumped(node, entry);
      await settle(node, entry);
      return rm(folderOfImages(node, entry.operation), { recursive: true, force: true });
    case 'revert':
      return revert(node, entry);
    case 'tell':
      return conclude(node, entry);
  }
}

async function removeOutput(node: Node, entry: OutputEntry): Promise<void> {
  await rm(entry.path, { recursive: true, force: true });
  await node.journal.remove(entry);
}

async function recoverTarget(node: Node, entry: TargetEntry): Promise<void> {
  const record = (state: 'rolled-back' | 'serving') =>
    node.migrations.records.change('target', entry.operation, { state });
  switch (targetRecovery(entry.state, entry.state === 'resuming' && (await allRuns(node, entry)))) {
    case 'forget':
      await removePlaceholder(node, entry);
      await record('rolled-back');
      return node.journal.remove(entry);
    case 'fail':
      await removePlaceholder(node, entry);
      await record('rolled-back');
      return node.journal.write({ ...entry, state: 'failed' });
    case 'serve':
      await node.journal.write({ ...entry, state: 'serving' });
      await record('serving');
      return openAgain(node, entry);
    case 'open':
      await record('serving');
      return openAgain(node, entry);
  }
}

/** The restore ended with the agent that waited for it, or it runs: the runtime knows. */
function allRuns(node: Node, entry: TargetEntry): Promise<boolean> {
  return goOn(node, entry).then(
    () => true,
    () => false,
  );
}

/** Several containers were all restored before the commit, and may not have been told yet to go on. */
async function goOn(node: Node, { sandbox, containers }: TargetEntry): Promise<void> {
  for (const { id, processes } of containers) await verifyRunning(node, id, processes);
  if (containers.length === 1) return;
  await shut(networkOf((await node.cri.describeSandbox(sandbox)).pid));
  await letGo(node, new Map(containers.map(({ id, stopped }) => [id, stopped])));
}

/** The pod may have been removed since: then there is nothing to open. */
async function openAgain(node: Node, entry: TargetEntry): Promise<void> {
  const sandboxes = await node.cri.listSandboxes();
  if (!sandboxes.some(({ id, state }) => id === entry.sandbox && state === PodSandboxState.SANDBOX_READY)) return;
  const { pid } = await node.cri.describeSandbox(entry.sandbox);
  await serve(node, entry, await addressesOf(networkOf(pid)));
}
