import { readFile } from 'node:fs/promises';
import { kill } from 'node:process';
import type { Node } from '../agent/node.ts';
import { exists } from '../durable.ts';
import { errnoOf, GantryError } from '../errors.ts';
import type { SourceEntry } from '../migrate/journal.ts';
import { open, shut } from '../network/shield.ts';
import { type Freezer, freeze, isFrozen, ownFreezer, processesOf, refreeze, thaw } from '../runtime/cgroup.ts';
import type { ContainerDetail } from '../runtime/cri.ts';

/**
 * A container that is frozen behind a shut network. Disposing it lets it go on as if nothing had happened, unless it
 * was ended: that is the rollback of everything that can fail before a commit.
 */
export class FrozenContainer {
  readonly #freezer: Freezer;
  readonly #netns: string;
  #ended = false;
  #isThawed = false;
  #forget: () => Promise<void> = () => Promise.resolve();

  private constructor(freezer: Freezer, netns: string) {
    this.#freezer = freezer;
    this.#netns = netns;
  }

  /** Shuts first: a request that is answered after the freeze has begun would be lost. The journal knows before. */
  static async freeze(node: Node, container: ContainerDetail, entry: SourceEntry): Promise<FrozenContainer> {
    const frozen = await FrozenContainer.find(container);
    if (frozen === undefined) throw new GantryError('NOT_RUNNING', `container ${container.name} has just ended`);
    if (await isFrozen(frozen.#freezer)) {
      // Whatever goes wrong lets it go on, and that is not for us to say.
      throw new GantryError('NOT_RUNNING', `container ${container.name} is paused`, {
        hint: `gantry resume ${container.name} lets it go on`,
      });
    }
    await frozen.#refuseStopped(container.name);
    await node.journal.write(entry);
    frozen.#forget = () => node.journal.remove(entry);
    try {
      await shut(frozen.#netns);
      await freeze(frozen.#freezer);
      return frozen;
    } catch (error) {
      await frozen[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** CRIU would wait for ever: in a frozen group of cgroup v1 nobody can attach to a task that a signal has stopped. */
  async #refuseStopped(name: string): Promise<void> {
    if (this.#freezer.version !== 1) return;
    for (const pid of await this.processes()) {
      const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
      if (!/^[Tt]$/.test(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[0] ?? '')) continue;
      throw new GantryError('UNSUPPORTED', `process ${pid} of container ${name} is stopped, and cannot be dumped so`, {
        hint: `let it go on first (kill -CONT ${pid}), or end who traces it`,
      });
    }
  }

  /** The handle of a container that an agent of before may have frozen; undefined once its processes have ended. */
  static async find(container: ContainerDetail): Promise<FrozenContainer | undefined> {
    const freezer = await ownFreezer(container);
    return freezer && new FrozenContainer(freezer, networkOf(container.sandbox.pid));
  }

  /** CRIU thaws the group once it has seized the tasks; after a dump, this says that they are frozen again. */
  refreeze(): Promise<void> {
    return refreeze(this.#freezer);
  }

  processes(): Promise<number[]> {
    return processesOf(this.#freezer);
  }

  /** Ends every process without letting one run again: on cgroup v1 a frozen task dies only when thawed. */
  async end(): Promise<void> {
    this.#ended = true;
    for (const pid of await this.processes().catch(whenGone([]))) signalQuietly(pid);
    await thaw(this.#freezer).catch(whenGone(undefined));
  }

  /** Lets it go on before everything that was begun is over; the journal's entry stays until this is disposed. */
  async thaw(): Promise<void> {
    if (this.#isThawed) return;
    // The network before the processes, so that the first packet sent is not dropped.
    const opened = await Promise.allSettled([open(this.#netns)]);
    await thaw(this.#freezer).catch(whenGone(undefined));
    this.#isThawed = true;
    const [outcome] = opened;
    if (outcome?.status === 'rejected' && (await exists(this.#netns))) {
      throw new GantryError('INTERNAL', `the pod's network could not be opened again: ${outcome.reason}`, {
        hint: `for family in netdev inet; do nsenter --net=${this.#netns} nft delete table $family gantry_shield; done`,
      });
    }
  }

  /** Leaves it frozen and shut: whether it may run again is for others to say. */
  leaveFrozen(): void {
    this.#ended = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    try {
      await this.thaw();
    } finally {
      await this.#forget();
    }
  }
}

/** The pod's network namespace, by its pause process. */
export function networkOf(pausePid: number): string {
  return `/proc/${pausePid}/ns/net`;
}

/** The group is gone with its last process. */
function whenGone<T>(instead: T): (error: unknown) => T {
  return (error) => {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENODEV') return instead;
    throw error;
  };
}

function signalQuietly(pid: number): void {
  try {
    kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}
