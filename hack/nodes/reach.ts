import { enterNode } from './enter.ts';
import { LabError } from './failure.ts';
import { run } from './program.ts';
import type { LabRecord } from './registry.ts';

/** Makes sure that every node reaches the host and the other nodes: on some machines a firewall sits in between. */
export async function checkReach(lab: LabRecord, signal: AbortSignal): Promise<void> {
  await Promise.all(
    lab.nodes.map(async (node) => {
      for (const target of [lab.clientAddress, ...lab.nodes.map(({ address }) => address)]) {
        const [file = '', ...args] = enterNode(lab, node, ['busybox', 'ping', '-c', '1', '-W', '2', target]);
        try {
          await run(file, args, { signal });
        } catch (cause) {
          signal.throwIfAborted();
          throw new LabError(`node ${node.name} does not reach ${target} over the lab's bridge`, {
            cause,
            hint: 'does a firewall drop forwarded packets? It sees bridges while net.bridge.bridge-nf-call-iptables is 1',
          });
        }
      }
    }),
  );
}
