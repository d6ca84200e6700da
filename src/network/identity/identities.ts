import { createHash } from 'node:crypto';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentConfig } from '../../agent/config.ts';
import { makePrivateFolder, removeDurably, writeDurably } from '../../durable.ts';
import { GantryError, messageOf } from '../../errors.ts';
import type { Log } from '../../log.ts';
import { ExecProvider } from './exec.ts';
import { L2Provider } from './l2.ts';
import type { MovedPod, Provider } from './provider.ts';
import { RouteProvider } from './route.ts';

const VERSION = 1;
const INTERVAL_MS = 1000;
/** Peers are asked every so many rounds. */
const ASK_ROUNDS = 4;
const LONGEST_WAIT_MS = 60_000;
/** Of one question: it is a line of limited length. */
const MOST = 100;

/** Where a pod is, as this node sees it: `away` is with the peer, or beyond it. */
interface Kept extends MovedPod {
  readonly place: 'here' | 'away';
}

/** What the rounds need of the node. */
export interface Surroundings {
  /** IDs of the sandboxes that are ready. */
  readySandboxes(): Promise<ReadonlySet<string>>;
  /** Which of these pods (by their keys) the peer has, or knows to be elsewhere. Errors: those of the connection. */
  ask(peer: string, keys: readonly string[]): Promise<readonly string[]>;
}

/**
 * The pods of a node that have come or left, and what its provider does for them. Where that lasts, each is one durable
 * file until the pod is gone: the verb is repeated when it has failed and when the agent starts, also after a reboot,
 * which has taken all routes away.
 *
 * A pod that is here is gone with its sandbox; one that is away, when the node that it went to says so.
 */
export class Identities {
  readonly #provider: Provider;
  readonly #folder: string;
  readonly #log: Log;
  readonly #kept = new Map<string, Kept>();
  /** Those that the provider has done its part for since the agent was started. */
  readonly #done = new Set<string>();
  readonly #retries = new Map<string, { at: number; waitMs: number }>();
  /** Sandboxes that were not ready in the round before: containerd may have just been started. */
  #missing: ReadonlySet<string> = new Set();
  /** What is under way, by pod: one at a time. */
  readonly #turns = new Map<string, Promise<void>>();

  private constructor(provider: Provider, folder: string, log: Log) {
    this.#provider = provider;
    this.#folder = folder;
    this.#log = log;
  }

  /** Errors: INTERNAL, for a file of a version that this program does not know. */
  static async open(folder: string, provider: Provider, log: Log): Promise<Identities> {
    const identities = new Identities(provider, folder, log);
    await makePrivateFolder(folder);
    for (const name of await readdir(folder)) {
      if (name.endsWith('.new')) await rm(join(folder, name));
      else identities.#kept.set(name.replace(/\.json$/, ''), await readKept(join(folder, name)));
    }
    return identities;
  }

  /** A pod lives here from now on, its network is open. What fails is tried again in the background. */
  takeOver(pod: Omit<MovedPod, 'from'>): Promise<void> {
    return this.#begin({ ...pod, place: 'here', from: this.#kept.get(keyOf(pod))?.from ?? pod.peer });
  }

  /** A pod has left, and its copy here has ended. What fails is tried again in the background. */
  leave(pod: Omit<MovedPod, 'from'>): Promise<void> {
    return this.#begin({ ...pod, place: 'away', from: this.#kept.get(keyOf(pod))?.from ?? '' });
  }

  /** Of these pods, those that this node has or knows to be elsewhere. */
  held(keys: readonly string[]): string[] {
    return keys.filter((key) => this.#kept.has(key));
  }

  /** Repeats what has failed and withdraws what is over, until the signal. */
  async keep(surroundings: Surroundings, signal: AbortSignal): Promise<void> {
    for (let round = 0; !signal.aborted; round++) {
      await this.round(surroundings, round % ASK_ROUNDS === 0).catch((error: unknown) =>
        this.#log.warn('identity-round-failed', { why: messageOf(error) }),
      );
      await sleep(INTERVAL_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  /** One round of {@link keep}. */
  async round(surroundings: Surroundings, asksPeers: boolean): Promise<void> {
    if (this.#kept.size === 0) return;
    const gone = [
      ...(await this.#goneFromHere(surroundings)),
      ...(asksPeers ? await this.#goneElsewhere(surroundings) : []),
    ];
    for (const [key, pod] of gone) await this.#end(key, pod);
    for (const [key, pod] of this.#kept)
      if (!this.#done.has(key) && !this.#missing.has(pod.sandbox)) await this.#again(key, pod);
  }

  async #begin(pod: Kept): Promise<void> {
    const key = keyOf(pod);
    await this.#inTurn(key, async () => {
      if (this.#provider.lasts) {
        await writeDurably(join(this.#folder, `${key}.json`), `${JSON.stringify({ version: VERSION, ...pod })}\n`);
        this.#kept.set(key, pod);
      }
      this.#done.delete(key);
      this.#retries.delete(key);
      await this.#apply(key, pod);
    });
  }

  async #again(key: string, pod: Kept): Promise<void> {
    if ((this.#retries.get(key)?.at ?? 0) > performance.now()) return;
    await this.#inTurn(key, async () => {
      // It may have come or left meanwhile.
      if (this.#kept.get(key) === pod && !this.#done.has(key)) await this.#apply(key, pod);
    });
  }

  async #apply(key: string, pod: Kept): Promise<void> {
    if (pod.place === 'here') await this.#try(key, 'take-over', pod, () => this.#provider.takeOver(pod));
    else await this.#try(key, 'leave', pod, () => this.#provider.leave(pod));
  }

  async #end(key: string, pod: Kept): Promise<void> {
    if ((this.#retries.get(key)?.at ?? 0) > performance.now()) return;
    await this.#inTurn(key, async () => {
      if (this.#kept.get(key) !== pod) return;
      this.#done.delete(key);
      await this.#try(key, 'withdraw', pod, () => this.#provider.withdraw({ ...pod, netns: '' }));
      if (!this.#done.delete(key)) return;
      await removeDurably(join(this.#folder, `${key}.json`));
      this.#kept.delete(key);
    });
  }

  async #try(key: string, verb: string, { operation, name, namespace, peer }: Kept, step: () => Promise<void>) {
    const about = { verb, operation, pod: `${namespace}/${name}`, peer };
    try {
      await step();
      this.#done.add(key);
      this.#retries.delete(key);
      this.#log.info('identity', about);
    } catch (error) {
      const waitMs = Math.min(2 * (this.#retries.get(key)?.waitMs ?? INTERVAL_MS / 2), LONGEST_WAIT_MS);
      this.#retries.set(key, { at: performance.now() + waitMs, waitMs });
      this.#log.warn('identity-failed', { ...about, why: messageOf(error), nextInMs: waitMs });
    }
  }

  async #goneFromHere({ readySandboxes }: Surroundings): Promise<[string, Kept][]> {
    const here = [...this.#kept].filter(([, { place }]) => place === 'here');
    if (here.length === 0) return [];
    const ready = await readySandboxes();
    const missing = here.filter(([, { sandbox }]) => !ready.has(sandbox));
    const gone = missing.filter(([, { sandbox }]) => this.#missing.has(sandbox));
    this.#missing = new Set(missing.map(([, { sandbox }]) => sandbox));
    return gone;
  }

  async #goneElsewhere({ ask }: Surroundings): Promise<[string, Kept][]> {
    const away = Map.groupBy(
      [...this.#kept].filter(([, { place }]) => place === 'away'),
      ([, { peer }]) => peer,
    );
    const gone: [string, Kept][] = [];
    for (const [peer, pods] of away) {
      for (let at = 0; at < pods.length; at += MOST) {
        const some = pods.slice(at, at + MOST);
        try {
          const held = new Set(
            await ask(
              peer,
              some.map(([key]) => key),
            ),
          );
          gone.push(...some.filter(([key]) => !held.has(key)));
        } catch (error) {
          // It may come back: what is there stays.
          this.#log.debug('identity-unknown', { peer, why: messageOf(error) });
        }
      }
    }
    return gone;
  }

  async #inTurn(key: string, step: () => Promise<void>): Promise<void> {
    const before = this.#turns.get(key) ?? Promise.resolve();
    const mine = before.catch(() => undefined).then(step);
    this.#turns.set(key, mine);
    try {
      await mine;
    } finally {
      if (this.#turns.get(key) === mine) this.#turns.delete(key);
    }
  }
}

export function providerOf(config: AgentConfig, log: Log): Provider {
  switch (config.identity.provider) {
    case 'l2':
      return new L2Provider(log);
    case 'route':
      return new RouteProvider(config, log);
    case 'exec':
      return new ExecProvider(config.node, config.identity.command);
  }
}

/** A pod has the same wherever it moves; it is a file's name. */
export function keyOf({ namespace, name, uid }: Pick<MovedPod, 'namespace' | 'name' | 'uid'>): string {
  return createHash('sha256').update(`${namespace}/${name}/${uid}`).digest('hex').slice(0, 16);
}

async function readKept(file: string): Promise<Kept> {
  const { version, ...pod } = JSON.parse(await readFile(file, 'utf8')) as Kept & { version: number };
  if (version !== VERSION) {
    throw new GantryError('INTERNAL', `${file} is of version ${version}, this program knows ${VERSION}`);
  }
  // Its process may be another one by now; whoever is still here is found by the sandbox.
  return pod.place === 'away' ? { ...pod, netns: '' } : pod;
}
