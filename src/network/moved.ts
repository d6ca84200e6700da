import { readdirSync, readFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { exists, makePrivateFolder, removeDurably, writeDurably } from '../durable.ts';
import type { Address } from './address.ts';

const VERSION = 1;
const SUFFIX = '.json';

/**
 * The addresses of sandboxes that have others than CNI gave them: a file `ID.json` for each, below the state of a node. The
 * agent writes them, the relay shows them.
 */
export class MovedAddresses {
  readonly #folder: string;

  constructor(stateDir: string) {
    this.#folder = join(stateDir, 'moved');
  }

  /** Durably. @param addresses in the order in which the pod has them */
  async write(sandbox: string, addresses: readonly Address[]): Promise<void> {
    await makePrivateFolder(this.#folder);
    const text = JSON.stringify({ version: VERSION, addresses: addresses.map(({ local }) => local) });
    await writeDurably(this.#file(sandbox), `${text}\n`);
  }

  /** Of a sandbox that is no more. */
  async forget(sandbox: string): Promise<void> {
    if (await exists(this.#file(sandbox))) await removeDurably(this.#file(sandbox));
  }

  /** Forgets sandboxes that are no more, whoever has removed them. @param list IDs of those that there are; not called when nothing is kept */
  async sweep(list: () => Promise<ReadonlySet<string>>): Promise<void> {
    const names = (await exists(this.#folder)) ? await readdir(this.#folder) : [];
    const kept = names.filter((name) => name.endsWith(SUFFIX)).map((name) => name.slice(0, -SUFFIX.length));
    if (kept.length === 0) return;
    const there = await list();
    for (const sandbox of kept) if (!there.has(sandbox)) await removeDurably(this.#file(sandbox));
  }

  /** Of whom there may be any. For the relay, which asks for every call: nobody has to tell it, nor the one after it. */
  sandboxes(): string[] {
    try {
      return readdirSync(this.#folder);
    } catch {
      return [];
    }
  }

  /** undefined for a sandbox that has what CNI gave it; also when nobody can tell any more. */
  read(sandbox: string): readonly string[] | undefined {
    try {
      const { version, addresses } = JSON.parse(readFileSync(this.#file(sandbox), 'utf8')) as {
        version: number;
        addresses: string[];
      };
      return version === VERSION ? addresses : undefined;
    } catch {
      return undefined;
    }
  }

  #file(sandbox: string): string {
    return join(this.#folder, `${sandbox}${SUFFIX}`);
  }
}
