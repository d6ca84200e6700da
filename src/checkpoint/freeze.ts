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
 * Containers of one pod that are frozen behind its shut network. Disposing it lets all of them go on as if nothing had
 * happened, unless they were ended: that is the rollback of everything that can fail before a commit.
 */
export class FrozenPod {
  readonly #freezers: ReadonlyMap<string, Freezer>;
  readonly #netns: string;
  #ended = false;
  #isThawed = false;
  #forget: () => Promise<void> = () => Promise.resolve();

  private constructor(freezers: ReadonlyMap<string, Freezer>, netns: string) {
    this.#freezers = freezers;
    this.#netns = netns;
  }

  /** {@link claim} and {@link freeze} at once. */
  static async freeze(node: Node, containers: readonly ContainerDetail[], entry: SourceEntry): Promise<FrozenPod> {
    const claimed = await FrozenPod.claim(node, containers, entry);
    await claimed.freeze();
    return claimed;
  }

  /**
   * Everything that comes before the freeze itself, so that nothing but it is left to do: whether they can be frozen, and the
   * journal, which knows before.
   *
   * @param containers of one sandbox; at least one
   */
  static async claim(node: Node, containers: readonly ContainerDetail[], entry: SourceEntry): Promise<FrozenPod> {
    const found = await FrozenPod.find(containers);
    const freezers = found === undefined ? new Map<string, Freezer>() : found.#freezers;
    for (const { id, name } of containers) {
      const freezer = freezers.get(id);
      if (freezer === undefined) throw new GantryError('NOT_RUNNING', `container ${name} has just ended`);
      if (await isFrozen(freezer)) {
        // Whatever goes wrong lets it go on, and that is not for us to say.
        throw new GantryError('NOT_RUNNING', `container ${name} is paused`, {
          hint: `gantry resume ${name} lets it go on`,
        });
      }
      await refuseStopped(freezer, name);
    }
    const frozen = found as FrozenPod;
    await node.journal.write(entry);
    frozen.#forget = () => node.journal.remove(entry);
    return frozen;
  }

  /** Shuts first: a request that is answered after the freeze has begun would be lost. When it fails they go on. */
  async freeze(): Promise<void> {
    try {
      await shut(this.#netns);
      for (const freezer of this.#freezers.values()) await freeze(freezer);
    } catch (error) {
      await this[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The handle of containers that an agent of before may have frozen; undefined once all their processes have ended. */
  static async find(containers: readonly ContainerDetail[]): Promise<FrozenPod | undefined> {
    const freezers = new Map<string, Freezer>();
    for (const container of containers) {
      const freezer = await ownFreezer(container);
      if (freezer !== undefined) freezers.set(container.id, freezer);
    }
    const [first] = containers;
    return first && freezers.size > 0 ? new FrozenPod(freezers, networkOf(first.sandbox.pid)) : undefined;
  }

  /** CRIU thaws a group once it has seized the tasks; after a dump, this says that they are frozen again. */
  async refreeze(container: string): Promise<void> {
    await refreeze(this.#of(container));
  }

  processes(container: string): Promise<number[]> {
    return processesOf(this.#of(container));
  }

  /** Of all containers; those that have ended have none. */
  async allProcesses(): Promise<number[]> {
    const all = [...this.#freezers.values()].map((freezer) => processesOf(freezer).catch(whenGone([])));
    return (await Promise.all(all)).flat();
  }

  /** Ends every process without letting one run again: on cgroup v1 a frozen task dies only when thawed. */
  async end(): Promise<void> {
    this.#ended = true;
    for (const pid of await this.allProcesses()) signalQuietly(pid);
    await this.#thawAll();
  }

  /** Lets them go on before everything that was begun is over; the journal's entry stays until this is disposed. */
  async thaw(): Promise<void> {
    if (this.#isThawed) return;
    // The network before the processes, so that the first packet sent is not dropped.
    const opened = await Promise.allSettled([open(this.#netns)]);
    await this.#thawAll();
    this.#isThawed = true;
    const [outcome] = opened;
    if (outcome?.status === 'rejected' && (await exists(this.#netns))) {
      throw new GantryError('INTERNAL', `the pod's network could not be opened again: ${outcome.reason}`, {
        hint: `for family in netdev inet; do nsenter --net=${this.#netns} nft delete table $family gantry_shield; done`,
      });
    }
  }

  /** Leaves them frozen and shut: whether they may run again is for others to say. */
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

  /** Together: they may talk to each other. */
  async #thawAll(): Promise<void> {
    await Promise.all([...this.#freezers.values()].map((freezer) => thaw(freezer).catch(whenGone(undefined))));
  }

  #of(container: string): Freezer {
    const freezer = this.#freezers.get(container);
    if (freezer === undefined) throw new GantryError('NOT_RUNNING', `container ${container} has ended`);
    return freezer;
  }
}

/** CRIU would wait for ever: in a frozen group of cgroup v1 nobody can attach to a task that a signal has stopped. */
async function refuseStopped(freezer: Freezer, name: string): Promise<void> {
  if (freezer.version !== 1) return;
  for (const pid of await processesOf(freezer)) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    if (!/^[Tt]$/.test(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[0] ?? '')) continue;
    throw new GantryError('UNSUPPORTED', `process ${pid} of container ${name} is stopped, and cannot be dumped so`, {
      hint: `let it go on first (kill -CONT ${pid}), or end who traces it`,
    });
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
