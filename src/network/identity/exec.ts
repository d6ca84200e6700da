import { run } from '../../runtime/program.ts';
import type { MovedPod, Provider } from './provider.ts';

const LIMIT_MS = 10_000;
/** Of what the program reads: raised when a field changes its meaning. */
const VERSION = 1;

export type Verb = 'take-over' | 'leave' | 'withdraw';

/** A program of the user's does it; its contract is in docs/identity.md. Errors: INTERNAL, with what it said. */
export class ExecProvider implements Provider {
  readonly lasts = true;
  readonly #node: string;
  readonly #command: readonly string[];

  constructor(node: string, command: readonly string[]) {
    this.#node = node;
    this.#command = command;
  }

  takeOver(pod: MovedPod): Promise<void> {
    return this.#call('take-over', pod);
  }

  leave(pod: MovedPod): Promise<void> {
    return this.#call('leave', pod);
  }

  withdraw(pod: MovedPod): Promise<void> {
    return this.#call('withdraw', pod);
  }

  async #call(verb: Verb, pod: MovedPod): Promise<void> {
    const [file = '', ...args] = this.#command;
    const input = `${JSON.stringify(inputOf(verb, this.#node, pod))}\n`;
    await run(file, [...args, verb], { input, timeoutMs: LIMIT_MS, name: `${file} ${verb}` });
  }
}

/** Pure: what the program reads on its standard input. */
export function inputOf(verb: Verb, node: string, pod: MovedPod) {
  const { operation, name, namespace, uid, sandbox, netns, peer } = pod;
  const addresses = pod.addresses.map(({ family, local, prefixLength }) => ({ family, address: local, prefixLength }));
  return { version: VERSION, verb, node, peer, operation, pod: { name, namespace, uid }, sandbox, netns, addresses };
}
