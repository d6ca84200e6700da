import { type Client, connectivityState } from '@grpc/grpc-js';

// A watch of grpc-js must have an end; it is renewed.
const WATCH_MS = 60_000;

/** Counts how often a client's connection was made again. */
export class Reconnects {
  readonly #client: Client;
  #connections = 0;
  #isStopped = false;

  constructor(client: Client) {
    this.#client = client;
    this.#watch(client.getChannel().getConnectivityState(false));
  }

  get count(): number {
    return Math.max(0, this.#connections - 1);
  }

  stop(): void {
    this.#isStopped = true;
  }

  #watch(state: connectivityState): void {
    const channel = this.#client.getChannel();
    channel.watchConnectivityState(state, Date.now() + WATCH_MS, () => {
      if (this.#isStopped) return;
      const next = channel.getConnectivityState(false);
      if (next === connectivityState.READY && state !== connectivityState.READY) this.#connections += 1;
      this.#watch(next);
    });
  }
}
