import { type Client, type ClientReadableStream, Metadata, status } from '@grpc/grpc-js';
import {
  type ContainerEventResponse,
  type ContainerEventType,
  RuntimeServiceService as Runtime,
} from '../../../src/gen/cri.ts';
import { nameOf } from '../caller.ts';
import type { Target } from '../target.ts';
import { pause } from './pace.ts';

const { path, requestSerialize, responseDeserialize } = Runtime.getContainerEvents;
const REOPEN_MS = 100;

/** kubelet's event stream, opened again whenever it ends, and what it has told of each container. */
export class Events {
  /** Since when nothing can have been missed: the first event of the stream that is open. */
  since: number | undefined;
  readonly #target: Target;
  readonly #client: Client;
  readonly #seen = new Map<string, ContainerEventType[]>();
  #stream: ClientReadableStream<ContainerEventResponse> | undefined;
  #isGivenUp = false;

  constructor(target: Target, client: Client) {
    this.#target = target;
    this.#client = client;
  }

  /** Whether a stream is open, as far as a client can tell. */
  get isOpen(): boolean {
    return this.#stream !== undefined;
  }

  of(containerId: string): readonly ContainerEventType[] {
    return this.#seen.get(containerId) ?? [];
  }

  forget(containerId: string): void {
    this.#seen.delete(containerId);
  }

  /** Gives the stream up, as a kubelet that ends does; it is opened again when the gate for long calls opens. */
  cancel(): void {
    this.#isGivenUp = true;
    this.#stream?.cancel();
  }

  async run(): Promise<void> {
    const { signal, longCalls } = this.#target;
    signal.addEventListener('abort', () => this.cancel(), { once: true });
    while (!signal.aborted) {
      await longCalls.through(async () => signal.aborted || this.#follow());
      await pause(REOPEN_MS, signal);
    }
  }

  async #follow(): Promise<void> {
    const startedAt = performance.now();
    const stream = this.#client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      {},
      new Metadata(),
    );
    this.#stream = stream;
    this.#isGivenUp = false;
    stream.on('data', (event: ContainerEventResponse) => this.#take(event));
    stream.on('error', () => undefined); // 'status' tells the same
    const end = await new Promise<{ code: number; details: string }>((resolve) => stream.once('status', resolve));
    this.#stream = undefined;
    this.since = undefined;
    if (this.#isGivenUp) return;
    const { relay, journal } = this.#target;
    const call = {
      relay,
      client: 'kubelet',
      method: nameOf(path),
      startedAt,
      endedAt: performance.now(),
      ...end,
      ownConnection: false,
      isQuick: false,
    };
    if (end.code === status.OK) journal.wrongAnswer(call, 'the event stream ended, and nobody had ended it');
    else journal.record(call);
  }

  #take(event: ContainerEventResponse): void {
    this.since ??= performance.now();
    const types = this.#seen.get(event.containerId) ?? [];
    types.push(event.containerEventType);
    this.#seen.set(event.containerId, types);
  }
}
