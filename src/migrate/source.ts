import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { DUMP_LOG } from '../archive/layout.ts';
import { FrozenPod, networkOf } from '../checkpoint/freeze.ts';
import { allocatedBytes, checkSpace, ImageFolder, keepLog } from '../checkpoint/images.ts';
import { occupy, targetOf } from '../checkpoint/target.ts';
import { emptyDirsOf, shmFolder } from '../checkpoint/volumes.ts';
import { GantryError, REASONS, type Reason } from '../errors.ts';
import { ContainerConfig, PodSandboxConfig } from '../gen/cri.ts';
import { type MigrateRequest, Quiesced, type Result } from '../gen/gantry/v1/agent.ts';
import { SourceMessage, type TargetMessage } from '../gen/gantry/v1/peer.ts';
import { type Address, addressesOf } from '../network/address.ts';
import { natWarnings } from '../network/nat.ts';
import { MOST_MS, quiesce } from '../network/quiesce.ts';
import { freezerOf, processesOf } from '../runtime/cgroup.ts';
import { residentBytes, writableLayer } from '../runtime/containerd.ts';
import type { ContainerDetail, SandboxDetail } from '../runtime/cri.ts';
import { dump } from '../runtime/criu.ts';
import { AS_THE_POD_SAYS } from '../surgery/occupants.ts';
import { Bandwidth } from '../transfer/bandwidth.ts';
import { connectPeer, type Stream } from '../transfer/peer.ts';
import { type Session, sourceSession } from '../transfer/session.ts';
import { type Flow, sendFolder, syncFiles } from '../transfer/streams.ts';
import { stopPod } from './cold.ts';
import type { SourceEntry } from './journal.ts';
import { type Chosen, chooseMode } from './mode.ts';
import { LIMITED, LIMITS } from './modes.ts';
import { keyOf } from './placeholder.ts';
import { untilDone } from './retry.ts';
import { settle, thawSource } from './settle.ts';
import { checkProbes } from './verify.ts';

const ABORT_LIMIT_MS = 15_000;
/** How long the caller waits for the outcome when the peer is lost after the commit; the agent goes on for longer. */
const SETTLE_LIMIT_MS = 60_000;

/** A peer that has no place is asked again so often. */
const RETRY_BUSY_MS = 500;
const TIMER_LIMIT_MS = 2 ** 31 - 1;
const WAIT = 'wait for a place';

/**
 * Moves a running pod to a peer: the source's side of the handover (docs/handover.md). Any failure before the commit lets
 * it go on here.
 */
export async function migrate(node: Node, request: MigrateRequest, operation: Operation): Promise<Result> {
  setLimits(operation, request);
  const target = await targetOf(node, request.container, operation.signal);
  // As a pod: nothing else may come into its sandbox meanwhile.
  const occupied = occupy(node, { ...target, isPod: true }, request.container);
  let settling: Promise<unknown> | undefined;
  const pod = await podOf(node, target.sandbox).catch(() => ({ namespace: '', name: '' }));
  const facts = { pod, containers: [...target.containers], peer: request.to, mode: request.mode };
  const running = await node.migrations.begin('source', operation, facts);
  let isBegun = false;
  try {
    const { containers, chosen } = await operation.phase('check', () =>
      check(node, target.containers, request, operation),
    );
    running.note({ mode: chosen.mode });
    const waiting = new Waiting(node, request, operation);
    using _place = await waiting.forPlace();
    const outgoing = await Outgoing.begin(node, containers, request, operation, waiting, chosen);
    isBegun = true;
    try {
      const result = await outgoing.run();
      await running.end({ state: 'serving', frozenMs: result.frozenMs });
      return result;
    } catch (error) {
      if (node.journal.stateOf('source', operation.id) === '') await outgoing.abort();
      throw error;
    } finally {
      settling = outgoing.settling;
      outgoing.close();
    }
  } catch (error) {
    // Over a limit: whatever was cut off by it only says that it was cut off.
    const failure = operation.signal.aborted ? operation.signal.reason : error;
    const { reason, message } = GantryError.from(failure);
    // What the journal still has is not over.
    const isOver = node.journal.stateOf('source', operation.id) === '';
    const state = isBegun || reason === 'CANCELLED' ? 'rolled-back' : 'failed';
    await running.end({ reason, message, ...(isOver ? { state } : {}) });
    throw failure;
  } finally {
    const free = () => occupied[Symbol.dispose]();
    if (settling === undefined) free();
    else settling.then(free, free);
  }
}

/** Errors: USAGE. */
function setLimits({ limits }: Operation, { timeouts }: MigrateRequest): void {
  for (const [phase, seconds] of Object.entries({ ...LIMITS, ...timeouts })) {
    if (!(LIMITED as readonly string[]).includes(phase) || !(seconds > 0))
      throw new GantryError('USAGE', `there is no limit of ${seconds} s for "${phase}"`);
    limits.set(phase, seconds);
  }
}

async function podOf(node: Node, sandbox: string): Promise<{ namespace: string; name: string }> {
  const found = (await node.cri.listSandboxes()).find(({ id }) => id === sandbox);
  return { namespace: found?.metadata?.namespace ?? '', name: found?.metadata?.name ?? '' };
}

/** Waits for a place, on this node and then at the peer, together for as long as the request says. */
class Waiting {
  readonly #node: Node;
  readonly #request: MigrateRequest;
  readonly #operation: Operation;
  readonly #until: number;

  constructor(node: Node, request: MigrateRequest, operation: Operation) {
    this.#node = node;
    this.#request = request;
    this.#operation = operation;
    this.#until = performance.now() + request.waitSeconds * 1000;
  }

  /** On this node. Errors: BUSY, CANCELLED. */
  async forPlace(): Promise<Disposable> {
    const { out } = this.#node.migrations;
    const { node, maxMigrationsOut } = this.#node.config;
    return (
      out.tryEnter() ??
      this.#wait(`node ${node} moves ${maxMigrationsOut} pods already`, (signal) =>
        out.enter(this.#request.priority, signal),
      )
    );
  }

  /** At the peer, which says BUSY while it has none. Errors: BUSY, CANCELLED, those of the step. */
  async whileBusy<T>(why: string, step: () => Promise<T>): Promise<T> {
    return this.#wait(why, async (signal) => {
      for (;;) {
        await sleep(RETRY_BUSY_MS, undefined, { signal });
        try {
          return await step();
        } catch (error) {
          if (!isBusy(error)) throw error;
        }
      }
    });
  }

  async #wait<T>(why: string, step: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const left = Math.ceil(this.#until - performance.now());
    const limit = AbortSignal.timeout(Math.min(Math.max(0, left), TIMER_LIMIT_MS));
    const signal = AbortSignal.any([this.#operation.signal, limit]);
    try {
      return await this.#operation.phase(WAIT, () => step(signal));
    } catch (error) {
      this.#operation.throwIfCancelled();
      if (!limit.aborted) throw error;
      const { waitSeconds } = this.#request;
      throw new GantryError('BUSY', `${why}${waitSeconds > 0 ? `, and after ${waitSeconds} s still` : ''}`, {
        cause: error,
        hint: 'gantry migrations lists them; --wait SECONDS waits longer',
      });
    }
  }
}

function isBusy(error: unknown): error is GantryError {
  return error instanceof GantryError && error.reason === 'BUSY';
}

async function check(
  node: Node,
  ids: readonly string[],
  request: MigrateRequest,
  operation: Operation,
): Promise<{ containers: ContainerDetail[]; chosen: Chosen }> {
  const containers = await Promise.all(ids.map((id) => node.cri.describe(id)));
  if (request.quiesceMs > MOST_MS) {
    throw new GantryError('USAGE', `nobody waits ${request.quiesceMs} ms for a quiet moment: ${MOST_MS} at most`);
  }
  checkProbes(request.verify);
  return { containers, chosen: await chooseMode(node, request, containers, operation) };
}

/** A folder of the source whose content moves by itself, and what it is called there. */
interface MovingFolder {
  readonly path: string;
  readonly stream: Stream;
}

type SourceSession = Session<TargetMessage, SourceMessage>;

class Outgoing {
  /** While the outcome is asked for, which may take longer than anybody waits. */
  settling: Promise<unknown> | undefined;
  readonly #node: Node;
  readonly #containers: readonly ContainerDetail[];
  readonly #sandbox: SandboxDetail;
  readonly #request: MigrateRequest;
  readonly #peer: string;
  readonly #operation: Operation;
  readonly #session: SourceSession;
  readonly #bandwidth: Bandwidth | undefined;
  readonly #chosen: Chosen;

  private constructor(
    node: Node,
    containers: readonly ContainerDetail[],
    request: MigrateRequest,
    operation: Operation,
    session: SourceSession,
    bandwidth: Bandwidth | undefined,
    chosen: Chosen,
  ) {
    this.#node = node;
    this.#containers = containers;
    this.#sandbox = (containers[0] as ContainerDetail).sandbox;
    this.#request = request;
    this.#peer = request.to;
    this.#operation = operation;
    this.#session = session;
    this.#bandwidth = bandwidth;
    this.#chosen = chosen;
  }

  static async begin(
    node: Node,
    containers: readonly ContainerDetail[],
    request: MigrateRequest,
    operation: Operation,
    waiting: Waiting,
    chosen: Chosen,
  ): Promise<Outgoing> {
    const { to: peer, bandwidth } = request;
    const connect = () =>
      connectPeer(node.config, peer, { kind: 'session', operation: operation.id }, operation.signal);
    const connected = await operation.phase('connect', () =>
      connect().catch((error: unknown) => {
        if (isBusy(error)) return error;
        throw error;
      }),
    );
    const { socket } =
      connected instanceof GantryError ? await waiting.whileBusy(connected.message, connect) : connected;
    const limit = bandwidth > 0n ? new Bandwidth(Number(bandwidth)) : undefined;
    return new Outgoing(node, containers, request, operation, sourceSession(socket), limit, chosen);
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
    const operation = this.#operation;
    const addresses = await addressesOf(networkOf(this.#sandbox.pid));
    const warnings = [...this.#chosen.warnings, ...(await natWarnings(this.#sandbox.config, addresses))];
    const { mode } = this.#chosen;
    const folders = await this.#folders();
    const placeholder = await operation.phase('placeholder', () => this.#offer(addresses));
    await this.#sendFiles('sync files', folders);

    const entry: SourceEntry = {
      role: 'source',
      state: 'frozen',
      operation: operation.id,
      peer: this.#peer,
      containers: this.#containers.map(({ id }) => id),
      sandbox: this.#sandbox.id,
      sandboxMetadata: keyOf(this.#sandbox.config),
      addresses,
    };
    const cutOver = mode === 'cold' ? await this.#restart(entry, folders) : await this.#cutOver(entry, folders);
    const [containerId = '', ...others] = placeholder.containerIds;
    return operation.result({
      containerId: others.length === 0 ? containerId : '',
      sandboxId: placeholder.sandboxId,
      node: this.#peer,
      mode,
      operation: operation.id,
      addresses: addresses.map(({ local }) => local),
      ...cutOver,
      warnings,
    });
  }

  /** Writable layers, emptyDirs and the pod's /dev/shm. */
  async #folders(): Promise<MovingFolder[]> {
    const { runtimeSocket } = this.#node.config;
    const folders: MovingFolder[] = [];
    for (const [container, { snapshotter, snapshotKey }] of this.#containers.entries()) {
      const path = await writableLayer(runtimeSocket, snapshotter, snapshotKey);
      folders.push({ path, stream: { of: 'layer', container } });
    }
    const volumes = emptyDirsOf(this.#containers.map(({ config }) => config));
    for (const [volume, path] of volumes) folders.push({ path, stream: { of: 'volume', volume } });
    const shm = await shmFolder((this.#containers[0] as ContainerDetail).spec);
    if (shm !== undefined) folders.push({ path: shm, stream: { of: 'shm' } });
    return folders;
  }

  async #offer(addresses: Address[]) {
    const { cri, config } = this.#node;
    const { mode } = this.#chosen;
    const memoryBytes = mode === 'cold' ? 0 : await this.#memoryBytes();
    await checkSpace(config.imageDir, memoryBytes);
    const containers = this.#containers.map(async ({ config: own, imageRef, image }) => ({
      config: Buffer.from(ContainerConfig.encode(own).finish()),
      image,
      imageRef: (await cri.imageStatus(imageRef)).image?.id ?? imageRef,
    }));
    this.#send({
      offer: {
        sandboxConfig: Buffer.from(PodSandboxConfig.encode(this.#sandbox.config).finish()),
        runtimeHandler: this.#sandbox.runtimeHandler,
        addresses,
        memoryBytes: BigInt(memoryBytes),
        containers: await Promise.all(containers),
        mode,
      },
    });
    return this.#expect('prepared');
  }

  async #memoryBytes(): Promise<number> {
    const processes = await Promise.all(this.#containers.map(async ({ pid }) => processesOf(await freezerOf(pid))));
    return residentBytes(processes.flat());
  }

  /**
   * Everything between the freeze and the source's end. Before the commit any error thaws the pod. `frozenMs` is from the
   * freeze until the target served.
   */
  async #cutOver(entry: SourceEntry, folders: readonly MovingFolder[]): Promise<Pick<Result, 'frozenMs' | 'quiesced'>> {
    const node = this.#node;
    const operation = this.#operation;
    const folder = await ImageFolder.make(node, operation.id, 'source');
    await using stack = new AsyncDisposableStack();
    stack.defer(async () => {
      // What is kept for a rollback is made of it, maybe later.
      const free = () => folder[Symbol.asyncDispose]();
      if (this.settling === undefined) await free();
      else this.settling.then(free, free);
    });
    await using pod = await FrozenPod.claim(node, this.#containers, entry);
    const quiesced = await this.#quiesce();
    using _limit = operation.limit('frozen');
    const frozenAt = operation.elapsedMs();
    await operation.phase('freeze', () => pod.freeze());
    const processes: number[] = [];
    for (const { id } of this.#containers) processes.push((await pod.processes(id)).length);
    // Both are waited for, also when one fails: nothing may still work on a container that is thawed.
    await allOf([operation.phase('dump', () => this.#dump(folder, pod)), this.#sendFiles('sync files again', folders)]);
    operation.throwIfCancelled();
    await operation.phase('send memory', async () => {
      const flow = this.#flow('send memory', await allocatedBytes(folder.path));
      for (const container of this.#containers.keys()) {
        await this.#sendStream({ of: 'images', container }, (socket, signal) =>
          sendFolder(socket, folder.imagesOf(container), signal, flow),
        );
      }
    });
    await operation.phase('restore', () => this.#poise());
    const committed = await this.#commit({ ...entry, processes });
    pod.leaveFrozen();
    await operation.phase('resume', () => this.#resume(committed));
    const frozenMs = operation.elapsedMs() - frozenAt;
    await operation.phase('remove source', () => this.#finish(committed));
    return { frozenMs, quiesced };
  }

  /**
   * The same without memory: the processes end here, by their own signal, what they have written on the way follows, and new
   * ones start there. Before the commit any error starts them again here, with their files. `frozenMs` is from the signal on.
   */
  async #restart(entry: SourceEntry, folders: readonly MovingFolder[]): Promise<Pick<Result, 'frozenMs'>> {
    const node = this.#node;
    const operation = this.#operation;
    const { graceSeconds = AS_THE_POD_SAYS } = this.#request;
    const stopped: SourceEntry = { ...entry, mode: 'cold', graceSeconds };
    operation.throwIfCancelled();
    const stoppedAt = operation.elapsedMs();
    let committed: SourceEntry;
    try {
      await operation.phase('stop', () => stopPod(node, this.#containers, stopped));
      // Their grace is theirs.
      using _limit = operation.limit('frozen');
      await this.#sendFiles('sync files again', folders);
      operation.throwIfCancelled();
      await this.#poise();
      committed = await this.#commit({ ...stopped, processes: this.#containers.map(() => 1) });
    } catch (error) {
      if (node.journal.stateOf('source', operation.id) === 'frozen')
        await operation.phase('start again', () =>
          untilDone(node, 'start-again', () => thawSource(node, stopped), operation),
        );
      throw error;
    }
    await operation.phase('start', () => this.#resume(committed));
    const frozenMs = operation.elapsedMs() - stoppedAt;
    await operation.phase('remove source', () => this.#finish(committed));
    return { frozenMs };
  }

  /** Until the target could go on at once. */
  #poise() {
    this.#send({ restore: { tcpEstablished: true, verify: this.#request.verify } });
    return this.#expect('poised');
  }

  async #commit(entry: SourceEntry): Promise<SourceEntry> {
    const committed: SourceEntry = { ...entry, state: 'committed' };
    await this.#operation.phase('commit', async () => {
      this.#operation.commit();
      await this.#node.journal.write(committed);
    });
    return committed;
  }

  /** The last thing before the freeze; what comes between them is time in which it may get loud again. */
  async #quiesce(): Promise<Quiesced | undefined> {
    const { quiesceMs } = this.#request;
    const operation = this.#operation;
    if (quiesceMs === 0) return undefined;
    return Quiesced.fromPartial(
      await operation.phase('quiesce', () => quiesce(this.#sandbox.pid, quiesceMs, operation.signal)),
    );
  }

  async #dump(folder: ImageFolder, pod: FrozenPod): Promise<void> {
    for (const [index, { id, name }] of this.#containers.entries()) {
      const images = folder.imagesOf(index);
      const work = dirname(images);
      await mkdir(images, { recursive: true, mode: 0o700 });
      try {
        await dump(id, images, work, { tcp: 'established' });
      } catch (error) {
        await keepLog(this.#node, join(work, DUMP_LOG), `${this.#operation.id}-${name}-dump.log`);
        throw error;
      }
      await pod.refreeze(id);
    }
  }

  async #resume(entry: SourceEntry): Promise<void> {
    const { processes = [] } = entry;
    this.#send({ commit: { processes } });
    let failure: GantryError;
    try {
      await this.#expect('serving', undefined);
      return;
    } catch (error) {
      failure = GantryError.from(error);
    }
    // Either the target failed, or nobody knows: settle() asks until it does, and thaws or ends the source accordingly.
    const settled = settle(this.#node, entry);
    this.settling = settled;
    const limit = new Promise<'unknown'>((resolve) => setTimeout(resolve, SETTLE_LIMIT_MS, 'unknown').unref());
    switch (await Promise.race([settled, limit])) {
      case 'moved':
        return;
      case 'thawed':
        throw failure;
      default:
        throw new GantryError('OUTCOME_UNKNOWN', `peer ${this.#peer} was lost after the commit: ${failure.message}`, {
          cause: failure,
          hint: 'the pod stays frozen here; the agent keeps asking the peer and then thaws or removes it',
        });
    }
  }

  async #finish(entry: SourceEntry): Promise<void> {
    if (this.settling !== undefined) return;
    await settle(this.#node, entry, 'serving');
  }

  async #sendFiles(phase: string, folders: readonly MovingFolder[]): Promise<void> {
    const flow = this.#flow(phase);
    await this.#operation.phase(phase, async () => {
      for (const { path, stream } of folders)
        await this.#sendStream(stream, (socket, signal) => syncFiles(socket, path, signal, flow));
    });
  }

  #flow(phase: string, total?: number): Flow {
    return { bandwidth: this.#bandwidth, moved: (bytes) => this.#operation.moved(phase, bytes, total) };
  }

  /** Sends one stream of data; what the target says about a failure is better than the broken pipe seen here. */
  async #sendStream(stream: Stream, send: (socket: TLSSocket, signal: AbortSignal) => Promise<number>): Promise<void> {
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
      if (stream.of === 'images' && received.value.bytes !== BigInt(sent.value)) {
        throw new GantryError(
          'PEER_LOST',
          `peer ${this.#peer} received ${received.value.bytes} of ${sent.value} bytes`,
        );
      }
    } finally {
      socket.destroy();
    }
  }

  /** Errors: PEER_LOST, because the session was there before. */
  async #connectStream(stream: Stream): Promise<TLSSocket> {
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
