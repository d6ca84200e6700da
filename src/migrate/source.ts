import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { FrozenContainer, networkOf } from '../checkpoint/freeze.ts';
import { checkSpace, ImageFolder, keepLog } from '../checkpoint/images.ts';
import { checkMovable } from '../checkpoint/preflight.ts';
import { GantryError, REASONS, type Reason } from '../errors.ts';
import { ContainerConfig, PodSandboxConfig } from '../gen/cri.ts';
import type { MigrateRequest, Result } from '../gen/gantry/v1/agent.ts';
import { SourceMessage, type TargetMessage } from '../gen/gantry/v1/peer.ts';
import { type Address, addressesOf } from '../network/address.ts';
import { freezerOf, processesOf } from '../runtime/cgroup.ts';
import { residentBytes, writableLayer } from '../runtime/containerd.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { dump } from '../runtime/criu.ts';
import { locateReal } from '../surgery/locate.ts';
import { connectPeer } from '../transfer/peer.ts';
import { type Session, sourceSession } from '../transfer/session.ts';
import { sendFolder, syncFiles } from '../transfer/streams.ts';
import type { SourceEntry } from './journal.ts';
import { settle } from './settle.ts';

const ABORT_LIMIT_MS = 15_000;
/** How long the caller waits for the outcome when the peer is lost after the commit; the agent goes on for longer. */
const SETTLE_LIMIT_MS = 60_000;

/**
 * Moves a running container to a peer: the source's side of the handover (docs/architecture.md). Any failure before the
 * commit lets the container go on here.
 */
export async function migrate(node: Node, request: MigrateRequest, operation: Operation): Promise<Result> {
  const found = await locateReal(node, request.container, operation.signal);
  if (node.busy.has(found.id) || node.busy.has(found.podSandboxId)) {
    throw new GantryError('BUSY', `another operation works on container ${request.container}`);
  }
  node.busy.add(found.id);
  let settling = false;
  try {
    const container = await operation.phase('check', () => check(node, found.id, request));
    const outgoing = await Outgoing.begin(node, container, request.to, operation);
    try {
      return await outgoing.run();
    } catch (error) {
      if (node.journal.stateOf('source', operation.id) === '') await outgoing.abort();
      throw error;
    } finally {
      settling = outgoing.isSettling;
      outgoing.close();
    }
  } finally {
    if (!settling) node.busy.delete(found.id);
  }
}

async function check(node: Node, id: string, request: MigrateRequest): Promise<ContainerDetail> {
  const container = await node.cri.describe(id);
  await checkMovable(container, node.cri, request.force);
  return container;
}

type SourceSession = Session<TargetMessage, SourceMessage>;

class Outgoing {
  isSettling = false;
  readonly #node: Node;
  readonly #container: ContainerDetail;
  readonly #peer: string;
  readonly #operation: Operation;
  readonly #session: SourceSession;

  private constructor(
    node: Node,
    container: ContainerDetail,
    peer: string,
    operation: Operation,
    session: SourceSession,
  ) {
    this.#node = node;
    this.#container = container;
    this.#peer = peer;
    this.#operation = operation;
    this.#session = session;
  }

  static async begin(node: Node, container: ContainerDetail, peer: string, operation: Operation): Promise<Outgoing> {
    const { socket } = await operation.phase('connect', () =>
      connectPeer(node.config, peer, { kind: 'session', operation: operation.id }, operation.signal),
    );
    return new Outgoing(node, container, peer, operation, sourceSession(socket));
  }

  close(): void {
    this.#session.close();
  }

  /** Waits, within a limit, until the target has undone its part: the caller is told when nothing is left behind. */
  async abort(): Promise<void> {
    this.#send({ abort: {} });
    const limit = new AbortController();
    await Promise.race([this.#session.closed, sleep(ABORT_LIMIT_MS, undefined, { signal: limit.signal })]);
    limit.abort();
  }

  async run(): Promise<Result> {
    const node = this.#node;
    const operation = this.#operation;
    const container = this.#container;
    const netns = networkOf(container.sandbox.pid);
    const layer = await writableLayer(node.config.runtimeSocket, container.snapshotter, container.snapshotKey);
    const addresses = await addressesOf(netns);

    const placeholder = await operation.phase('placeholder', () => this.#offer(addresses));
    await operation.phase('sync files', () => this.#sendFiles(layer));

    const entry: SourceEntry = {
      role: 'source',
      state: 'frozen',
      operation: operation.id,
      peer: this.#peer,
      container: container.id,
      sandbox: container.sandbox.id,
    };
    const frozenMs = await this.#cutOver(entry, layer);
    return operation.result({
      containerId: placeholder.containerId,
      sandboxId: placeholder.sandboxId,
      node: this.#peer,
      mode: 'stop-and-copy',
      addresses: addresses.map(({ local }) => local),
      frozenMs,
    });
  }

  async #offer(addresses: Address[]) {
    const { config, imageRef, image, pid, sandbox } = this.#container;
    const { image: local } = await this.#node.cri.imageStatus(imageRef);
    const memoryBytes = await residentBytes(await processesOf(await freezerOf(pid)));
    await checkSpace(this.#node.config.imageDir, memoryBytes);
    this.#send({
      offer: {
        sandboxConfig: Buffer.from(PodSandboxConfig.encode(sandbox.config).finish()),
        containerConfig: Buffer.from(ContainerConfig.encode(config).finish()),
        runtimeHandler: sandbox.runtimeHandler,
        image,
        imageRef: local?.id ?? imageRef,
        addresses,
        memoryBytes: BigInt(memoryBytes),
      },
    });
    return this.#expect('prepared');
  }

  /**
   * Everything between the freeze and the source's end. Before the commit any error thaws the container. Returns the
   * milliseconds from the freeze until the target served.
   */
  async #cutOver(entry: SourceEntry, layer: string): Promise<number> {
    const node = this.#node;
    const operation = this.#operation;
    await using folder = await ImageFolder.make(node, operation.id, 'source');
    await mkdir(folder.images, { mode: 0o700 });
    const frozenAt = operation.elapsedMs();
    let servedAt: number;
    {
      await using frozen = await operation.phase('freeze', () => FrozenContainer.freeze(node, this.#container, entry));
      const processes = (await frozen.processes()).length;
      // Both are waited for, also when one fails: nothing may still work on a container that is thawed.
      await allOf([
        operation.phase('dump', () => this.#dump(folder, frozen)),
        operation.phase('sync files again', () => this.#sendFiles(layer)),
      ]);
      operation.throwIfCancelled();
      await operation.phase('send memory', () =>
        this.#sendStream('images', (socket, signal) => sendFolder(socket, folder.images, signal)),
      );
      await operation.phase('restore', () => {
        this.#send({ restore: { tcpEstablished: true } });
        return this.#expect('poised');
      });

      await operation.phase('commit', async () => {
        operation.commit();
        await node.journal.write({ ...entry, state: 'committed' });
      });
      frozen.leaveFrozen();
      await operation.phase('resume', () => this.#resume({ ...entry, state: 'committed' }, processes));
      servedAt = operation.elapsedMs();
    }
    await operation.phase('remove source', () => this.#finish({ ...entry, state: 'committed' }));
    return servedAt - frozenAt;
  }

  async #dump(folder: ImageFolder, frozen: FrozenContainer): Promise<void> {
    try {
      await dump(this.#container.id, folder.images, folder.path, { tcp: 'established' });
    } catch (error) {
      await keepLog(this.#node, join(folder.path, 'dump.log'), `${this.#operation.id}-dump.log`);
      throw error;
    }
    await frozen.refreeze();
  }

  async #resume(entry: SourceEntry, processes: number): Promise<void> {
    this.#send({ commit: { processes } });
    let failure: GantryError;
    try {
      await this.#expect('serving', undefined);
      return;
    } catch (error) {
      failure = GantryError.from(error);
    }
    // Either the target failed, or nobody knows: settle() asks until it does, and thaws or ends the source accordingly.
    this.isSettling = true;
    const settled = settle(this.#node, entry).finally(() => this.#node.busy.delete(entry.container));
    const limit = new Promise<'unknown'>((resolve) => setTimeout(resolve, SETTLE_LIMIT_MS, 'unknown').unref());
    switch (await Promise.race([settled, limit])) {
      case 'moved':
        return;
      case 'thawed':
        throw failure;
      default:
        throw new GantryError('OUTCOME_UNKNOWN', `peer ${this.#peer} was lost after the commit: ${failure.message}`, {
          cause: failure,
          hint: 'the container stays frozen here; the agent keeps asking the peer and then thaws or removes it',
        });
    }
  }

  async #finish(entry: SourceEntry): Promise<void> {
    if (this.isSettling) return;
    await settle(this.#node, entry, 'serving');
  }

  #sendFiles(layer: string): Promise<void> {
    return this.#sendStream('files', (socket, signal) => syncFiles(socket, layer, signal));
  }

  /** Sends one stream of data; what the target says about a failure is better than the broken pipe seen here. */
  async #sendStream(
    stream: 'files' | 'images',
    send: (socket: TLSSocket, signal: AbortSignal) => Promise<number>,
  ): Promise<void> {
    const operation = this.#operation;
    const socket = await this.#connectStream(stream);
    const given = new AbortController();
    try {
      // A sender whose network swallows everything would wait for as long as TCP tries: the session knows first.
      const answer = this.#expect('received').catch((error: unknown) => {
        given.abort();
        socket.destroy();
        throw error;
      });
      const signal = AbortSignal.any([operation.signal, given.signal]);
      const [sent, received] = await Promise.allSettled([send(socket, signal), answer]);
      if (received.status === 'rejected') throw received.reason;
      if (sent.status === 'rejected') throw sent.reason;
      // tar takes a stream that ends early between two files for a whole one.
      if (stream === 'images' && received.value.bytes !== BigInt(sent.value)) {
        throw new GantryError(
          'PEER_LOST',
          `peer ${this.#peer} received ${received.value.bytes} of ${sent.value} bytes`,
        );
      }
      operation.sent(sent.value);
    } finally {
      socket.destroy();
    }
  }

  /** Errors: PEER_LOST, because the session was there before. */
  async #connectStream(stream: 'files' | 'images'): Promise<TLSSocket> {
    const purpose = { kind: 'data' as const, operation: this.#operation.id, stream };
    try {
      return (await connectPeer(this.#node.config, this.#peer, purpose, this.#operation.signal)).socket;
    } catch (error) {
      if (!(error instanceof GantryError && error.reason === 'PEER_UNREACHABLE')) throw error;
      throw new GantryError('PEER_LOST', error.message, { cause: error });
    }
  }

  #send(message: Parameters<typeof SourceMessage.fromPartial>[0]): void {
    this.#session.send(SourceMessage.fromPartial(message));
  }

  /** The target's next message, which must be this one. Errors: the target's own, PEER_LOST, CANCELLED. */
  async #expect<K extends 'prepared' | 'received' | 'poised' | 'serving'>(
    kind: K,
    signal: AbortSignal | undefined = this.#operation.signal,
  ): Promise<NonNullable<TargetMessage[K]>> {
    const message = await this.#session.receive(signal);
    const { failed } = message;
    if (failed !== undefined) {
      const reason = failed.reason in REASONS ? (failed.reason as Reason) : 'INTERNAL';
      throw new GantryError(reason, `on node ${this.#peer}: ${failed.message}`, { hint: failed.hint });
    }
    const wanted = message[kind];
    if (wanted === undefined) throw new GantryError('PEER_LOST', `peer ${this.#peer} did not answer with "${kind}"`);
    return wanted as NonNullable<TargetMessage[K]>;
  }
}

/** Waits for all, then fails with the first error, if any. */
async function allOf(promises: readonly Promise<unknown>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(promises)) {
    if (outcome.status === 'rejected') throw outcome.reason;
  }
}
