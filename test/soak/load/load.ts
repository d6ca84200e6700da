import type { Client } from '@grpc/grpc-js';
import { Caller } from '../caller.ts';
import { kubeletClient } from '../channels.ts';
import type { Target } from '../target.ts';
import { connectLoad } from './connects.ts';
import { crictlLoad } from './crictl.ts';
import { Events } from './events.ts';
import { kubeletLoad } from './kubelet.ts';
import { PodCycle } from './pod-cycle.ts';
import { pressure } from './pressure.ts';
import { probeLoad } from './probes.ts';
import { Reconnects } from './reconnects.ts';

/** Everything that calls one relay. */
export class Load {
  readonly target: Target;
  readonly events: Events;
  readonly cycle: PodCycle;
  readonly reconnects: Reconnects;
  readonly #client: Client;
  readonly #kubelet: Caller;

  constructor(target: Target) {
    this.target = target;
    this.#client = kubeletClient(target.socket);
    this.#kubelet = new Caller('kubelet', target, this.#client);
    this.reconnects = new Reconnects(this.#client);
    this.events = new Events(target, this.#client);
    this.cycle = new PodCycle(target, this.#kubelet, this.events);
  }

  /** Until the target's signal aborts and the last call has ended. */
  async run(): Promise<void> {
    await Promise.all([
      kubeletLoad(this.target, this.#kubelet),
      probeLoad(this.target, this.#kubelet),
      crictlLoad(this.target),
      connectLoad(this.target),
      this.events.run(),
      this.cycle.run(),
    ]);
  }

  /** More calls than that, without a break, until `signal` aborts. */
  press(signal: AbortSignal): Promise<void> {
    return pressure(this.target, this.#kubelet, signal);
  }

  /** Ends the calls that have no end of their own or a late one, and makes no more of them until disposed. */
  async withoutLongCalls(): Promise<Disposable> {
    const closing = this.target.longCalls.close(10_000);
    this.events.cancel();
    return closing;
  }

  close(): void {
    this.reconnects.stop();
    this.#client.close();
  }
}
