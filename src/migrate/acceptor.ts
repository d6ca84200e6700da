import type { TLSSocket } from 'node:tls';
import type { Node } from '../agent/node.ts';
import { nodeFacts } from '../check/proc/node.ts';
import { GantryError } from '../errors.ts';
import type { Purpose } from '../transfer/peer.ts';
import type { TargetEntry } from './journal.ts';
import { type Answer, mayForget } from './protocol.ts';
import { Incoming } from './target.ts';
import { endForRollback, tellOutcome } from './whereabouts.ts';

/** Takes the connections of peers and gives each to the migration that it belongs to. */
export class Acceptor {
  readonly #node: Node;
  readonly #incoming = new Map<string, Incoming>();
  #reverting: Promise<unknown> = Promise.resolve();

  constructor(node: Node) {
    this.#node = node;
  }

  async accept(
    peer: string,
    purpose: Purpose,
    socket: TLSSocket,
    answer: (line: { ok: true; outcome?: string }) => void,
  ): Promise<void> {
    const { operation } = purpose;
    // It becomes part of file names.
    if (!/^[0-9a-f]{16}$/.test(operation)) throw new GantryError('USAGE', `"${operation}" is no operation's ID`);
    switch (purpose.kind) {
      case 'session': {
        if (this.#incoming.has(operation)) throw new GantryError('BUSY', `operation ${operation} exists already`);
        const place = this.#node.migrations.in.tryEnter();
        if (place === undefined) {
          const { node, maxMigrationsIn } = this.#node.config;
          throw new GantryError('BUSY', `node ${node} takes ${maxMigrationsIn} pods in already`);
        }
        const incoming = new Incoming(this.#node, peer, operation, socket);
        this.#incoming.set(operation, incoming);
        answer({ ok: true });
        incoming.run().finally(() => {
          this.#incoming.delete(operation);
          place[Symbol.dispose]();
        });
        return;
      }
      case 'data': {
        const incoming = this.#incoming.get(operation);
        // A peer may only send to what it began itself.
        if (incoming?.peer !== peer) throw new GantryError('PEER_LOST', `there is no operation ${operation} here`);
        answer({ ok: true });
        return incoming.receive(purpose.stream, socket);
      }
      case 'outcome':
        answer({ ok: true, outcome: await tellOutcome(this.#node, this.#entryOf(peer, operation)) });
        return void socket.end();
      case 'revert':
        answer({ ok: true, outcome: await this.#revert(peer, operation) });
        return void socket.end();
      case 'done': {
        const entry = this.#entryOf(peer, operation);
        // Once the entry is gone the record alone tells how it ended.
        await this.#node.migrations.records.written;
        if (entry !== undefined && mayForget(entry.state)) await this.#node.journal.remove(entry);
        answer({ ok: true });
        return void socket.end();
      }
      case 'identities':
        answer({ ok: true, outcome: this.#node.identities.held(purpose.pods).join(' ') });
        return void socket.end();
      case 'facts': {
        const facts = await nodeFacts(this.#node, purpose.images);
        answer({ ok: true });
        return void socket.end(JSON.stringify(facts));
      }
      default:
        throw new GantryError('UNSUPPORTED', `node ${this.#node.config.node} does not know this kind of connection`);
    }
  }

  /** One after another: what is asked twice is done once. */
  #revert(peer: string, operation: string): Promise<Answer> {
    const next = this.#reverting.then(() => endForRollback(this.#node, this.#entryOf(peer, operation)));
    this.#reverting = next.catch(() => undefined);
    return next;
  }

  /** Only the peer of a migration learns its outcome. */
  #entryOf(peer: string, operation: string): TargetEntry | undefined {
    const entry = this.#node.journal.find('target', operation);
    return entry?.peer === peer ? entry : undefined;
  }
}
