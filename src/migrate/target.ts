import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import type { Node } from '../agent/node.ts';
import { Operation } from '../agent/operation.ts';
import { networkOf } from '../checkpoint/freeze.ts';
import { checkSpace, ImageFolder } from '../checkpoint/images.ts';
import { shareOutIpc } from '../checkpoint/ipc.ts';
import { checkRestorableWith } from '../checkpoint/preflight.ts';
import { checkImage } from '../checkpoint/restore.ts';
import { PoisedPod, verifyRunning } from '../checkpoint/restore-container.ts';
import { checkName } from '../checkpoint/trust.ts';
import { emptyDirsOf, shmFolder, withOwnVolumes } from '../checkpoint/volumes.ts';
import { GantryError } from '../errors.ts';
import { ContainerConfig, PodSandboxConfig } from '../gen/cri.ts';
import {
  type Offer,
  type OfferedContainer,
  type RestoreOrder,
  type SourceMessage,
  TargetMessage,
} from '../gen/gantry/v1/peer.ts';
import { type Address, replaceAddresses } from '../network/address.ts';
import { shut } from '../network/shield.ts';
import { writableLayer } from '../runtime/containerd.ts';
import { pinned, type SandboxDetail } from '../runtime/cri.ts';
import type { Stream } from '../transfer/peer.ts';
import { type Session, targetSession } from '../transfer/session.ts';
import { receiveFiles, receiveFolder } from '../transfer/streams.ts';
import type { TargetEntry } from './journal.ts';
import type { Running } from './migrations.ts';
import { keyOf, refuseTaken, removePlaceholder, serve } from './placeholder.ts';
import { nowOrLater, untilDone } from './retry.ts';
import { checkProbes, verifyProbes } from './verify.ts';

/**
 * One pod that a peer moves here: the target's side of the handover. Until the commit has come, the end of the
 * peer's connection, or any error, undoes everything.
 */
export class Incoming {
  readonly peer: string;
  readonly #node: Node;
  readonly #operation: string;
  /** The same, as this side's record has it. */
  readonly #told: Operation;
  readonly #session: Session<SourceMessage, TargetMessage>;
  #entry: TargetEntry | undefined;
  /** Nothing is restored. */
  #isCold = false;
  #folder: ImageFolder | undefined;
  /** Once everything of the placeholder is there. */
  #made: Made | undefined;
  #streams = 0;
  /** Streams of data under way, and what ends them together with the rest. */
  readonly #receiving = new Set<Promise<number>>();
  readonly #over = new AbortController();

  constructor(node: Node, peer: string, operation: string, socket: TLSSocket) {
    this.#node = node;
    this.peer = peer;
    this.#operation = operation;
    this.#told = new Operation(peer, operation);
    this.#session = targetSession(socket);
  }

  /** Runs the whole conversation; resolves when nothing of it is left to do. Never rejects. */
  async run(): Promise<void> {
    const { log } = this.#node;
    const about = { operation: this.#operation, peer: this.peer };
    let running: Running | undefined;
    try {
      const { offer } = await this.#expect('offer');
      this.#isCold = offer.mode === 'cold';
      const { namespace = '', name = '' } = PodSandboxConfig.decode(offer.sandboxConfig).metadata ?? {};
      const facts = { pod: { namespace, name }, containers: [], peer: this.peer, mode: offer.mode };
      running = await this.#node.migrations.begin('target', this.#told, facts);
      const addresses = offer.addresses.map((address) => ({ ...address, family: address.family as Address['family'] }));
      await this.#told.phase('placeholder', () => this.#prepare(offer, addresses));
      const containers = this.#entry?.containers.map(({ id }) => id) ?? [];
      log.info('placeholder-made', { ...about, sandbox: this.#entry?.sandbox, containers });
      running.note({ containers });
      await this.#takeOver(addresses, running);
      log.info('migration-serving', { ...about, containers: this.#entry?.containers.map(({ id }) => id) });
    } catch (error) {
      const { reason, message, hint } = GantryError.from(error);
      log.warn('migration-failed', { ...about, reason, message });
      await this.#rollBack();
      this.#send({ failed: { reason, message, hint } });
      if (this.#entry?.state !== 'serving')
        running?.note({ state: this.#entry === undefined ? 'failed' : 'rolled-back', reason, message });
    } finally {
      this.#session.close();
      await running?.end({});
    }
  }

  /** Receives one stream of data on a connection of its own. */
  async receive(stream: Stream, socket: TLSSocket): Promise<void> {
    const { signal } = this.#over;
    const end = () => void socket.destroy();
    signal.addEventListener('abort', end, { once: true });
    try {
      const folder = this.#folder;
      const made = this.#made;
      if (folder === undefined || made === undefined || signal.aborted)
        throw new GantryError('USAGE', 'data before the placeholder was made, or after its end');
      const into = whereTo(stream, made, folder);
      const flow = { moved: (bytes: number) => this.#told.moved('receive', bytes) };
      const receiving =
        stream.of === 'images'
          ? receiveFolder(socket, into, signal, flow)
          : receiveFiles(socket, into, join(folder.path, `rsync-${this.#streams++}.conf`), signal, flow);
      this.#receiving.add(receiving);
      const bytes = await receiving.finally(() => this.#receiving.delete(receiving));
      this.#send({ received: { bytes: BigInt(bytes) } });
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
    if (offer.containers.length === 0) throw new GantryError('USAGE', 'an offer of no container');
    if (!this.#isCold) await checkRestorableWith(offer.runtimeHandler);
    await checkSpace(config.imageDir, Number(offer.memoryBytes));
    for (const { image, imageRef } of offer.containers)
      await checkImage(node, { image: { name: image, id: imageRef } });
    this.#folder = await ImageFolder.make(node, this.#operation, 'target');

    const sandboxConfig = PodSandboxConfig.decode(offer.sandboxConfig);
    const sandboxMetadata = keyOf(sandboxConfig);
    const { uid } = sandboxMetadata;
    // It becomes part of a path.
    checkName(uid);
    await refuseTaken(node, sandboxMetadata);
    await this.#write({
      role: 'target',
      state: 'preparing',
      operation: this.#operation,
      peer: this.peer,
      sandboxMetadata,
      sandbox: '',
      containers: [],
    });
    // What kubelet would have made. The journal knows before: nobody else speaks for these folders yet.
    const configs: ContainerConfig[] = [];
    for (const container of offer.containers) configs.push(await withOwnVolumes(node, configOf(container), uid));
    if (sandboxConfig.logDirectory !== '') {
      for (const { logPath } of configs)
        await mkdir(join(sandboxConfig.logDirectory, dirname(logPath)), { recursive: true });
    }
    const sandbox = await cri.runSandbox(sandboxConfig, offer.runtimeHandler);
    await this.#write({ sandbox });
    const detail = await cri.describeSandbox(sandbox);
    const netns = networkOf(detail.pid);
    // Shut before it has the address: the source still answers for it.
    await shut(netns);
    await this.#node.moved.write(sandbox, addresses);
    await replaceAddresses(netns, addresses);
    const layers: string[] = [];
    let shm: string | undefined;
    for (const own of configs) {
      const id = await cri.createContainer(sandbox, own, sandboxConfig);
      await this.#write({ containers: [...(this.#entry?.containers ?? []), { id, processes: 0, stopped: [] }] });
      const { snapshotter, snapshotKey, spec } = await cri.describe(id);
      layers.push(await writableLayer(config.runtimeSocket, snapshotter, snapshotKey));
      shm ??= await shmFolder(spec);
    }
    this.#made = { sandbox: detail, layers, volumes: emptyDirsOf(configs), shm };
    const containerIds = this.#entry?.containers.map(({ id }) => id) ?? [];
    this.#send({ prepared: { sandboxId: sandbox, containerIds } });
  }

  async #takeOver(addresses: Address[], running: Running): Promise<void> {
    const node = this.#node;
    const told = this.#told;
    const { containers } = this.#entry as TargetEntry;
    const { sandbox } = this.#made as Made;
    const folder = this.#folder as ImageFolder;
    const { restore } = await told.phase('receive', () => this.#expect('restore'));
    checkProbes(restore.verify);
    await using poised = this.#isCold
      ? PoisedPod.created(node, sandbox, containers)
      : await told.phase('restore', () => this.#restore(restore, containers, sandbox));
    this.#send({ poised: {} });

    const { commit } = await this.#expect('commit');
    const restored = containers.map(({ id }, index) => ({
      id,
      processes: commit.processes[index] ?? 1,
      stopped: [...(poised.stopped.get(id) ?? [])],
    }));
    await this.#write({ state: 'resuming', containers: restored });
    await told.phase(this.#isCold ? 'start' : 'resume', async () => {
      await poised.resume({ keepShut: true });
      for (const { id, processes } of restored) await verifyRunning(node, id, processes);
      const reached = {
        netns: networkOf(sandbox.pid),
        address: addresses[0]?.local ?? '',
        container: restored[0]?.id ?? '',
      };
      await verifyProbes(node, reached, restore.verify, { isStarting: this.#isCold });
    });
    await this.#write({ state: 'serving' });
    // From here on it lives here.
    running.note({ state: 'serving' });
    await untilDone(node, 'open-network', () => serve(node, this.#entry as TargetEntry, addresses));
    this.#send({ serving: {} });
    await folder[Symbol.asyncDispose]();
  }

  async #restore({ tcpEstablished }: RestoreOrder, containers: readonly { id: string }[], sandbox: SandboxDetail) {
    const folder = this.#folder as ImageFolder;
    const coming = containers.map(({ id }, index) => ({ id, from: { images: folder.imagesOf(index) } }));
    if (coming.length > 1) await shareOutIpc(coming.map(({ from }) => from.images));
    return PoisedPod.restore(this.#node, this.#operation, sandbox, coming, {
      tcp: tcpEstablished ? 'established' : 'none',
    });
  }

  /** Says "failed" only when nothing is left that could run: the source thaws on that word. */
  async #rollBack(): Promise<void> {
    const entry = this.#entry;
    this.#over.abort();
    await Promise.allSettled(this.#receiving);
    await this.#folder?.[Symbol.asyncDispose]();
    if (entry === undefined) return;
    // It lives here, and may have been reached. A restarted agent opens its network again.
    if (entry.state === 'serving') return;
    await untilDone(this.#node, 'remove-placeholder', () => removePlaceholder(this.#node, entry));
    // After the commit the source asks, maybe later, and must find the answer; on a full disk it asks until there is room.
    if (entry.state === 'resuming')
      await nowOrLater(this.#node, 'write failed', () => this.#write({ state: 'failed' }));
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

/** The placeholder. */
interface Made {
  readonly sandbox: SandboxDetail;
  /** Writable layers, in the offer's order. */
  readonly layers: readonly string[];
  /** Folders of the emptyDirs by name. */
  readonly volumes: ReadonlyMap<string, string>;
  readonly shm: string | undefined;
}

/** A folder of this node: never one that the peer names. Errors: USAGE, for one that was not offered. */
function whereTo(stream: Stream, made: Made, folder: ImageFolder): string {
  const found = folderFor(stream, made, folder);
  if (found === undefined) throw new GantryError('USAGE', `the offer has nothing for ${JSON.stringify(stream)}`);
  return found;
}

function folderFor(stream: Stream, { layers, volumes, shm }: Made, folder: ImageFolder): string | undefined {
  switch (stream.of) {
    case 'layer':
    case 'images': {
      // What a peer says of it need not be a number.
      const layer = Number.isInteger(stream.container) ? layers[stream.container] : undefined;
      return stream.of === 'layer' ? layer : layer && folder.imagesOf(stream.container);
    }
    case 'volume':
      return volumes.get(stream.volume);
    case 'shm':
      return shm;
  }
}

function configOf({ config, image, imageRef }: OfferedContainer): ContainerConfig {
  return pinned(ContainerConfig.decode(config), { id: imageRef, name: image });
}
