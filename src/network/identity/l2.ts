import type { Log } from '../../log.ts';
import { announce } from '../address.ts';
import type { MovedPod, Provider } from './provider.ts';

/**
 * A flat network: whoever has the address answers for it. Neighbours are told where it lives now; it takes seconds, which
 * nobody waits for.
 */
export class L2Provider implements Provider {
  readonly lasts = false;
  readonly #log: Log;

  constructor(log: Log) {
    this.#log = log;
  }

  takeOver({ netns, addresses, sandbox }: MovedPod): Promise<void> {
    announce(netns, addresses).catch((error: unknown) =>
      this.#log.warn('announce-failed', { sandbox, why: String(error) }),
    );
    return Promise.resolve();
  }

  leave(): Promise<void> {
    return Promise.resolve();
  }

  withdraw(): Promise<void> {
    return Promise.resolve();
  }
}
