import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Node } from '../agent/node.ts';
import { errnoOf, GantryError } from '../errors.ts';
import { ContainerState } from '../gen/cri.ts';
import { open, shut } from '../network/shield.ts';
import { freezerOf, processesOf } from '../runtime/cgroup.ts';
import { runtimeOf } from '../runtime/containerd.ts';
import type { SandboxDetail } from '../runtime/cri.ts';
import { type CriuOptions, restoreOptions } from '../runtime/criu.ts';
import { Ticket } from '../runtime/ticket.ts';
import { coresIn } from './cores.ts';
import { networkOf } from './freeze.ts';
import { keepLog } from './images.ts';
import { makeRoomForIpc } from './ipc.ts';

const MOST_LOOKS = 20;
/** CRIU's number for a task that a signal has stopped. */
const TASK_STOPPED = 3;

/** What a container is started from. */
export interface Images {
  /** Folder with CRIU's images. */
  readonly images: string;
  /** Resolves when a restore may begin: {@link verified} will not take much longer than it. */
  near?(): Promise<void>;
  /** Resolves when they are known to be what they were; nothing runs before. Errors: BAD_ARCHIVE. */
  verified?(): Promise<void>;
}

/**
 * A container that is being started from a checkpoint and waits, complete and with its tasks stopped, for
 * {@link resume}. Disposing it before that ends the restore; the container is then one whose start failed.
 */
export class PoisedContainer {
  readonly #ticket: Ticket;
  readonly #started: Promise<void>;
  #resumed = false;
  #isRunning = false;

  private constructor(ticket: Ticket, started: Promise<void>) {
    this.#ticket = ticket;
    this.#started = started;
  }

  /** Starts a created container through CRI, with a ticket. Errors: RESTORE_FAILED with CRIU's reason; its log is kept. */
  static async restore(
    node: Node,
    operation: string,
    { id, sandbox }: { readonly id: string; readonly sandbox: string },
    from: Images,
    options: CriuOptions,
  ): Promise<PoisedContainer> {
    await from.near?.();
    const { images } = from;
    // The pod's containers have the runtime of its sandbox.
    const runtime = await runtimeOf(sandbox);
    const { spec } = runtime === 'crun' ? await node.cri.describe(id) : { spec: undefined };
    const how = await restoreOptions(runtime, spec?.linux?.cgroupsPath ?? '', options);
    const ticket = await Ticket.issue(node.config.runDir, id, images, how);
    const started = node.cri.startContainer(id).catch((error: unknown) => {
      throw new GantryError('RESTORE_FAILED', error instanceof Error ? error.message : String(error), { cause: error });
    });
    const poised = new PoisedContainer(ticket, started);
    // Both ends are awaited below or in the dispose; until then a rejection is nobody's surprise.
    started.catch(() => undefined);
    const stop = new AbortController();
    try {
      const outcome = await Promise.race([
        ticket.poised(stop.signal).then(() => 'poised' as const),
        started.then(() => 'started' as const),
      ]);
      if (outcome === 'started') {
        throw new GantryError('RESTORE_FAILED', 'the runtime started the container afresh instead of restoring it', {
          hint: "is the OCI hook installed as the runtime's BinaryName in containerd's configuration?",
        });
      }
      await from.verified?.();
      return poised;
    } catch (error) {
      await keepLog(node, ticket.log, `${operation}-restore.log`);
      await poised[Symbol.asyncDispose]();
      throw error;
    } finally {
      stop.abort();
    }
  }

  /** Lets the tasks run and returns when the CRI says RUNNING. Errors: RESTORE_FAILED. */
  async resume(): Promise<void> {
    this.#resumed = true;
    await this.#ticket.release();
    await this.#started;
    await this.#ticket.discard();
    this.#isRunning = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isRunning) return;
    if (!this.#resumed) await this.#ticket.refuse();
    await this.#started.catch(() => undefined);
    await this.#ticket.end();
    await this.#ticket.discard();
  }
}

/** Of CRIU's configuration: the tasks of a restore are stopped, until {@link letGo}. */
const STOPPED = 'leave-stopped';

/** A container that was created, and from what it will start. */
export interface Coming {
  readonly id: string;
  readonly from: Images;
}

/**
 * Containers of a pod that are restored, and of which nothing has run yet. Several come back one by one, each stopped before
 * its first instruction, and with the network shut, loopback included: they go on together, and none of them finds that
 * another is not there yet. They could not all wait at the gate, as there the first one holds the shim of the whole pod.
 */
export class PoisedPod {
  readonly #node: Node;
  readonly #netns: string;
  /** One that waits at its gate; of several none does. */
  readonly #single: PoisedContainer | undefined;
  /** PIDs, as each container counts, of processes that somebody had stopped before they were dumped. */
  readonly stopped: ReadonlyMap<string, readonly number[]>;
  /** IDs of those that are only created: they start anew. */
  readonly #created: readonly string[];

  private constructor(
    node: Node,
    netns: string,
    single: PoisedContainer | undefined,
    stopped: ReadonlyMap<string, readonly number[]>,
    created: readonly string[] = [],
  ) {
    this.#node = node;
    this.#netns = netns;
    this.#single = single;
    this.stopped = stopped;
    this.#created = created;
  }

  /** Of a pod that moves without its memory: its containers are made, and {@link resume} starts them, in this order. */
  static created(node: Node, sandbox: SandboxDetail, containers: readonly { readonly id: string }[]): PoisedPod {
    return new PoisedPod(
      node,
      networkOf(sandbox.pid),
      undefined,
      new Map(),
      containers.map(({ id }) => id),
    );
  }

  /** Errors: those of {@link PoisedContainer.restore} and NOT_FITTING. What was restored is the caller's to remove then. */
  static async restore(
    node: Node,
    operation: string,
    sandbox: SandboxDetail,
    coming: readonly Coming[],
    options: CriuOptions,
    signal?: AbortSignal,
  ): Promise<PoisedPod> {
    const folders = coming.map(({ from }) => from.images);
    await makeRoomForIpc(node, sandbox, folders);
    const netns = networkOf(sandbox.pid);
    const [first] = coming;
    if (first !== undefined && coming.length === 1) {
      const single = await PoisedContainer.restore(
        node,
        operation,
        { id: first.id, sandbox: sandbox.id },
        first.from,
        options,
      );
      return new PoisedPod(node, netns, single, new Map());
    }
    await shut(netns, undefined, { loopback: true });
    const stopped = new Map<string, readonly number[]>();
    const lines = [...(options.lines ?? []), STOPPED];
    for (const [index, { id, from }] of coming.entries()) {
      signal?.throwIfAborted();
      await using poised = await PoisedContainer.restore(
        node,
        `${operation}-${index}`,
        { id, sandbox: sandbox.id },
        from,
        {
          ...options,
          lines,
        },
      );
      await poised.resume();
      stopped.set(id, await stoppedIn(from.images));
    }
    return new PoisedPod(node, netns, undefined, stopped);
  }

  /** Lets all tasks run. The CRI says RUNNING when it returns. @param keepShut the pod stays shut, but for its loopback */
  async resume({ keepShut = false } = {}): Promise<void> {
    if (this.#single !== undefined) return this.#single.resume();
    for (const id of this.#created) await this.#node.cri.startContainer(id);
    await (keepShut ? shut(this.#netns) : open(this.#netns));
    await letGo(this.#node, this.stopped);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#single?.[Symbol.asyncDispose]();
  }
}

/** Continues the processes of containers that were restored stopped, but for those that were stopped before. Idempotent. */
export async function letGo(node: Node, stopped: ReadonlyMap<string, readonly number[]>): Promise<void> {
  const pids: number[] = [];
  for (const [id, before] of stopped) {
    const { pid } = await node.cri.describe(id);
    for (const one of await processesOf(await freezerOf(pid)))
      if (!before.includes(await innermostPid(one))) pids.push(one);
  }
  // All at once: they may talk to each other.
  for (const pid of pids) process.kill(pid, 'SIGCONT');
}

/** PIDs, as the container counts, of processes that somebody had stopped before they were dumped. */
async function stoppedIn(images: string): Promise<number[]> {
  const stopped: number[] = [];
  for await (const { id, core } of coresIn(images)) if (core.tc?.task_state === TASK_STOPPED) stopped.push(id);
  return stopped;
}

/** "NSpid: 4711 49": in each namespace, from this one's to the process' own. */
export async function innermostPid(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^NSpid:.*\s(\d+)$/m.exec(status)?.[1]);
}

/**
 * Serving means that the CRI says RUNNING and that the processes are there, for a moment and not just at one instant.
 * Fewer at one look mean nothing: a shell's programs end, and the next one starts. Errors: VERIFICATION_FAILED.
 */
export async function verifyRunning(node: Node, container: string, processes: number): Promise<void> {
  let complete = 0;
  let found = 0;
  for (let look = 0; look < MOST_LOOKS; look++) {
    if (look > 0) await sleep(5);
    const detail = await node.cri.describe(container);
    if (detail.state !== ContainerState.CONTAINER_RUNNING) {
      throw new GantryError('VERIFICATION_FAILED', 'the container ended right after its start');
    }
    found = await countIn(detail.pid);
    if (found >= processes) complete++;
    if (complete === 2) return;
  }
  throw new GantryError('VERIFICATION_FAILED', `only ${found} of ${processes} processes run after the start`);
}

/** None in a container that ends just now. */
async function countIn(pid: number): Promise<number> {
  try {
    return (await processesOf(await freezerOf(pid))).length;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENODEV' || errnoOf(error) === 'ESRCH') return 0;
    throw error;
  }
}
