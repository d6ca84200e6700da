import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { networkOf } from '../checkpoint/freeze.ts';
import { verifyRunning } from '../checkpoint/restore-container.ts';
import { addressesOf } from '../network/address.ts';
import type { SourceEntry, TargetEntry } from './journal.ts';
import { removePlaceholder, serve } from './placeholder.ts';
import { untilDone } from './retry.ts';
import { settle, thawSource } from './settle.ts';

/**
 * What an agent does with the journal of one that died, before it takes any call. What needs the peer goes on in the
 * background. Nothing of the old agent's conversations is left: their connections ended with it.
 */
export async function recover(node: Node): Promise<void> {
  const entries = await node.journal.load();
  for (const entry of entries) {
    node.log('recovering', { operation: entry.operation, role: entry.role, state: entry.state });
    const key = `${entry.role} ${entry.operation}`;
    const step = () => (entry.role === 'source' ? recoverSource(node, entry) : recoverTarget(node, entry));
    if (entry.role === 'source') node.busy.add(entry.container);
    const done = untilDone(node, `recover ${key}`, step).finally(() => node.busy.delete(entry.container));
    // What only this node has to say is done before the first call is taken.
    if (!(entry.role === 'source' && entry.state === 'committed')) await done;
  }
  await rm(node.config.imageDir, { recursive: true, force: true });
  for (const folder of ['tickets', 'spent']) {
    await rm(join(node.config.runDir, folder), { recursive: true, force: true });
  }
}

async function recoverSource(node: Node, entry: SourceEntry): Promise<void> {
  if (entry.state === 'frozen') return thawSource(node, entry);
  await settle(node, entry);
}

async function recoverTarget(node: Node, entry: TargetEntry): Promise<void> {
  switch (entry.state) {
    case 'preparing':
      await removePlaceholder(node, entry);
      return node.journal.remove(entry);
    case 'resuming': {
      // The restore ended with the agent that waited for it, or it runs: the runtime knows.
      const runs = await verifyRunning(node, entry.container, entry.processes).then(
        () => true,
        () => false,
      );
      if (!runs) {
        await removePlaceholder(node, entry);
        return node.journal.write({ ...entry, state: 'failed' });
      }
      await node.journal.write({ ...entry, state: 'serving' });
      return openAgain(node, entry);
    }
    case 'serving':
      return openAgain(node, entry);
    case 'failed':
      return;
  }
}

async function openAgain(node: Node, entry: TargetEntry): Promise<void> {
  const { pid } = await node.cri.describeSandbox(entry.sandbox);
  await serve(node, entry.sandbox, await addressesOf(networkOf(pid)));
}
