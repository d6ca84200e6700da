import { text } from 'node:stream/consumers';
import type { Node } from '../agent/node.ts';
import { GantryError } from '../errors.ts';
import { connectPeer } from '../transfer/peer.ts';
import type { NodeFacts } from './proc/node.ts';

const LIMIT_MS = 10_000;

/** Asks a peer what it has. Errors: PEER_UNKNOWN, PEER_UNREACHABLE, PEER_UNTRUSTED, PEER_LOST; the peer's own. */
export async function askPeer(
  node: Node,
  peer: string,
  images: readonly string[],
  signal: AbortSignal,
): Promise<NodeFacts> {
  const operation = '0'.repeat(16);
  const purpose = { kind: 'facts', operation, images } as const;
  const { socket } = await connectPeer(node.config, peer, purpose, signal).catch((error: unknown) => {
    const { reason, message, hint } = GantryError.from(error);
    if (reason.startsWith('PEER_') || reason === 'CANCELLED') throw error;
    throw new GantryError(reason, `on node ${peer}: ${message}`, { cause: error, hint });
  });
  const limit = setTimeout(() => socket.destroy(new Error('silent')), LIMIT_MS);
  try {
    return JSON.parse(await text(socket)) as NodeFacts;
  } catch (error) {
    signal.throwIfAborted();
    throw new GantryError('PEER_LOST', `peer ${peer} did not say what it has`, {
      cause: error,
      hint: 'is its agent of the same version?',
    });
  } finally {
    clearTimeout(limit);
    socket.destroy();
  }
}
