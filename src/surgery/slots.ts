import { setTimeout as sleep } from 'node:timers/promises';
import type { Client, MethodDefinition } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { GantryError } from '../errors.ts';
import { Slot, SlotsService } from '../gen/gantry/v1/slots.ts';
import { connectSocket, isServiceError, unary } from '../runtime/grpc.ts';

const TIMEOUT_MS = 15_000;
// A relay that is restarted or upgraded is back in less.
const AWAY_MS = 20_000;
const RETRY_MS = 100;

/** The slots of this node, as the relay keeps them. */
export class Slots {
  readonly #client: Client;
  readonly #socket: string;

  constructor(socket: string) {
    this.#socket = socket;
    this.#client = connectSocket(socket);
  }

  close(): void {
    this.#client.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Errors: PROXY_UNAVAILABLE. */
  async list(): Promise<Slot[]> {
    return (await this.#call(SlotsService.list, {})).slots;
  }

  /**
   * Makes or changes a slot, also while the relay is being restarted. Errors: CONFLICT, when somebody has changed it since
   * it was read; PROXY_UNAVAILABLE, when it may have been changed or not.
   */
  async put(slot: Slot): Promise<Slot> {
    const until = performance.now() + AWAY_MS;
    for (;;) {
      try {
        const { slot: made } = await this.#call(SlotsService.put, { slot });
        if (made === undefined) throw new GantryError('INTERNAL', 'the relay answered without a slot');
        return made;
      } catch (error) {
        if (!isAway(error) || performance.now() > until) throw error;
        await sleep(RETRY_MS);
        // The answer may have been lost after the deed.
        const now = (await this.list().catch(() => [])).find(({ id }) => id === slot.id);
        if (now?.revision === slot.revision + 1 && isSame(now, slot)) return now;
      }
    }
  }

  /** Errors: as for put. */
  async remove({ id, revision }: Slot): Promise<void> {
    const until = performance.now() + AWAY_MS;
    for (;;) {
      try {
        await this.#call(SlotsService.remove, { id, revision });
        return;
      } catch (error) {
        if (!isAway(error) || performance.now() > until) throw error;
        await sleep(RETRY_MS);
      }
    }
  }

  async #call<Request, Response>(method: MethodDefinition<Request, Response>, request: Request): Promise<Response> {
    try {
      return await unary(this.#client, method, request, { timeoutMs: TIMEOUT_MS });
    } catch (error) {
      if (!isServiceError(error)) throw error;
      switch (error.code) {
        case status.ABORTED:
          throw new GantryError('CONFLICT', error.details, { cause: error });
        case status.UNAVAILABLE:
        case status.DEADLINE_EXCEEDED:
        case status.CANCELLED:
          throw new GantryError(
            'PROXY_UNAVAILABLE',
            `gantry proxy on ${this.#socket} does not answer: ${error.details}`,
            {
              cause: error,
              hint: 'a client of the runtime would see what is done: start gantry proxy, and put kubelet on it',
            },
          );
        case status.RESOURCE_EXHAUSTED:
          throw new GantryError('NO_SPACE', `the relay cannot keep its slots: ${error.details}`, {
            cause: error,
            hint: 'free disk space in /var/lib/gantry',
          });
        default:
          throw new GantryError('INTERNAL', `the relay: ${error.details}`, { cause: error });
      }
    }
  }
}

function isAway(error: unknown): boolean {
  return error instanceof GantryError && error.reason === 'PROXY_UNAVAILABLE';
}

function isSame(one: Slot, other: Slot): boolean {
  const bytes = (slot: Slot) => Buffer.from(Slot.encode({ ...slot, revision: 0 }).finish());
  return bytes(one).equals(bytes(other));
}
