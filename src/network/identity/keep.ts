import type { Node } from '../../agent/node.ts';
import { PodSandboxState } from '../../gen/cri.ts';
import { connectPeer } from '../../transfer/peer.ts';

/** Does what is left to do for moved pods, and withdraws what is over, until the signal. */
export function keepIdentities({ cri, config, identities }: Node, signal: AbortSignal): Promise<void> {
  return identities.keep(
    {
      readySandboxes: async () => {
        const ready = (await cri.listSandboxes(signal)).filter(({ state }) => state === PodSandboxState.SANDBOX_READY);
        return new Set(ready.map(({ id }) => id));
      },
      ask: async (peer, pods) => {
        const purpose = { kind: 'identities' as const, operation: '0'.repeat(16), pods };
        const { socket, outcome } = await connectPeer(config, peer, purpose, signal);
        socket.destroy();
        return outcome.split(' ').filter(Boolean);
      },
    },
    signal,
  );
}
