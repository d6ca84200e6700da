import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import type { Node } from '../agent/node.ts';
import { networkOf } from '../checkpoint/freeze.ts';
import { checkSpace, ImageFolder } from '../checkpoint/images.ts';
import { checkRestorableWith } from '../checkpoint/preflight.ts';
import { PoisedContainer, verifyRunning } from '../checkpoint/restore-container.ts';
import { GantryError } from '../errors.ts';
import { ContainerConfig, PodSandboxConfig } from '../gen/cri.ts';
import { type Offer, type SourceMessage, TargetMessage } from '../gen/gantry/v1/peer.ts';
import { type Address, replaceAddresses } from '../network/address.ts';
import { shut } from '../network/shield.ts';
import { writableLayer } from '../runtime/containerd.ts';
import { type Session, targetSession } from '../transfer/session.ts';
import { receiveFiles, receiveFolder } from '../transfer/streams.ts';
import type { TargetEntry } from './journal.ts';
import { refuseTaken, removePlaceholder, serve } from './placeholder.ts';
import { untilDone } from './retry.ts';

/**
 * One container that a peer moves here: the target's side of the handover. Until the commit has come, the end of the
 * peer's connection, or any error, undoes everything.
 */
export class Incoming {
  readonly peer: string;
  readonly #node: Node;
  readonly #operation: string;
  readonly #session: Session<SourceMessage, TargetMessage>;
  #entry: TargetEntry | undefined;
  #folder: ImageFolder | undefined;
  #layer = '';
  /** Streams of data under way, and what ends them together with the rest. */
  readonly #receiving = new Set<Promise<number>>();
  readonly #over = new AbortController();

  constructor(node: Node, peer: string, operation: string, socket: TLSSocket) {
    this.#node = node;
    this.peer = peer;
    this.#operation = operation;
    this.#session = targetSession(socket);
  }

  /** Runs the whole conversation; resolves when nothing of it is left to do. Never rejects. */
  async run(): Promise<void> {
    const { log } = this.#node;
    const about = { operation: this.#operation, peer: this.peer };
    try {
      const { offer } = await this.#expect('offer');
      const addresses = offer.addresses.map((address) => ({ ...address, family: address.family as Address['family'] }));
      await this.#prepare(offer, addresses);
      log.info('placeholder-made', { ...about, sandbox: this.#entry?.sandbox, container: this.#entry?.container });
      await this.#takeOver(addresses);
      log.info('migration-serving', { ...about, container: this.#entry?.container });
    } catch (error) {
      const { reason, message, hint } = GantryError.from(error);
      log.warn('migration-failed', { ...about, reason, message });
      await this.#rollBack();
      this.#send({ failed: { reason, message, hint } });
    } finally {
      this.#session.close();
    }
  }

  /** Receives one stream of data on a connection of its own. */
  async receive(stream: 'files' | 'images', socket: TLSSocket): Promise<void> {
    const { signal } = this.#over;
    const end = () => void socket.destroy();
    signal.addEventListener('abort', end, { once: true });
    try {
      const folder = this.#folder;
      if (folder === undefined || this.#layer === '' || signal.aborted)
        throw new GantryError('USAGE', 'data before the placeholder was made, or after its end');
      const receiving =
        stream === 'files'
          ? receiveFiles(socket, this.#layer, folder.path, signal)
          : receiveFolder(socket, folder.images, signal);
      this.#receiving.add(receiving);
      const bytes = await receiving.finally(() => this.#receiving.delete(receiving));
      this.#send({ received: { stream, bytes: BigInt(bytes) } });
    } catch (error) {
      const { reason, message, hint } = GantryError.from(error);
      this.#send({ failed: { reason, message, hint } });
    } finally {
      signal.removeEventListener('abort', end);
      socket.end();
    }
  }

  async #prepare(offer: Offer, addresses: Address[]): Promise<void> {
    const node = this.#node;
    const { cri, config } = node;
    await checkRestorableWith(offer.runtimeHandler);
    await checkSpace(config.imageDir, Number(offer.memoryBytes));
    await this.#checkImage(offer);
    this.#folder = await ImageFolder.make(node, this.#operation, 'target');

    const sandboxConfig = PodSandboxConfig.decode(offer.sandboxConfig);
    const containerConfig = ContainerConfig.decode(offer.containerConfig);
    // By its ID, as kubelet does: the tag may mean another image here.
    if (containerConfig.image !== undefined) {
      containerConfig.image.image = offer.imageRef;
      containerConfig.image.userSpecifiedImage ||= offer.image;
    }
    const { name = '', namespace = '', uid = '', attempt = 0 } = sandboxConfig.metadata ?? {};
    await refuseTaken(node, { name, namespace, uid, attempt });
    await this.#write({
      role: 'target',
      state: 'preparing',
      operation: this.#operation,
      peer: this.peer,
      sandboxMetadata: { name, namespace, uid, attempt },
      sandbox: '',
      container: '',
      processes: 0,
    });
    // What kubelet would have made.
    if (sandboxConfig.logDirectory !== '') {
      await mkdir(join(sandboxConfig.logDirectory, dirname(containerConfig.logPath)), { recursive: true });
    }
    const sandbox = await cri.runSandbox(sandboxConfig, offer.runtimeHandler);
    await this.#write({ sandbox });
    const { pid } = await cri.describeSandbox(sandbox);
    // Shut before it has the address: the source still answers for it.
    await shut(networkOf(pid));
    await replaceAddresses(networkOf(pid), addresses);
    const container = await cri.createContainer(sandbox, containerConfig, sandboxConfig);
    await this.#write({ container });
    const { snapshotter, snapshotKey } = await cri.describe(container);
    this.#layer = await writableLayer(config.runtimeSocket, snapshotter, snapshotKey);
    this.#send({ prepared: { sandboxId: sandbox, containerId: container } });
  }

  async #takeOver(addresses: Address[]): Promise<void> {
    const node = this.#node;
    const { container, sandbox } = this.#entry as TargetEntry;
    const folder = this.#folder as ImageFolder;
    const { restore } = await this.#expect('restore');
    await using poised = await PoisedContainer.restore(node, this.#operation, { id: container, sandbox }, folder, {
      tcp: restore.tcpEstablished ? 'established' : 'none',
    });
    this.#send({ poised: {} });

    const { commit } = await this.#expect('commit');
    await this.#write({ state: 'resuming', processes: commit.processes });
    await poised.resume();
    await verifyRunning(node, container, commit.processes);
    await this.#write({ state: 'serving' });
    // From here on it lives here.
    await untilDone(node, 'open-network', () => serve(node, sandbox, addresses));
    this.#send({ serving: {} });
    await folder[Symbol.asyncDispose]();
  }

  async #checkImage({ image, imageRef }: Offer): Promise<void> {
    const { image: here } = await this.#node.cri.imageStatus(imageRef);
    if (here === undefined) {
      throw new GantryError(
        'IMAGE_MISSING',
        `node ${this.#node.config.node} does not have image ${image} (${imageRef})`,
        {
          hint: 'pull that very image there first',
        },
      );
    }
  }

  /** Says "failed" only when nothing is left that could run: the source thaws on that word. */
  async #rollBack(): Promise<void> {
    const entry = this.#entry;
    this.#over.abort();
    await Promise.allSettled(this.#receiving);
    await this.#folder?.[Symbol.asyncDispose]();
    if (entry === undefined) return;
    await untilDone(this.#node, 'remove-placeholder', () => removePlaceholder(this.#node, entry));
    // After the commit the source asks, maybe later, and must find the answer.
    if (entry.state === 'resuming') await this.#write({ state: 'failed' });
    else await this.#node.journal.remove(entry);
  }

  async #write(change: Partial<TargetEntry>): Promise<void> {
    const entry = { ...this.#entry, ...change } as TargetEntry;
    await this.#node.journal.write(entry);
    this.#entry = entry;
  }

  #send(message: Parameters<typeof TargetMessage.fromPartial>[0]): void {
    this.#session.send(TargetMessage.fromPartial(message));
  }

  async #expect<K extends 'offer' | 'restore' | 'commit'>(kind: K) {
    const message = await this.#session.receive();
    if (message.abort !== undefined) throw new GantryError('CANCELLED', `peer ${this.peer} gave up`);
    const wanted = message[kind];
    if (wanted === undefined) throw new GantryError('PEER_LOST', `peer ${this.peer} did not say "${kind}"`);
    return { [kind]: wanted } as { [P in K]: NonNullable<SourceMessage[P]> };
  }
}
