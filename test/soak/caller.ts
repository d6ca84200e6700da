import { type Client, Metadata, type MethodDefinition } from '@grpc/grpc-js';
import { crictlClient } from './channels.ts';
import type { RelayName } from './faults.ts';
import type { Gate } from './gate.ts';
import type { Journal } from './journal.ts';
import type { CallRecord } from './judgement.ts';
import { PLAN } from './plan.ts';

export type Outcome<Answer> = { readonly answer: Answer } | { readonly failure: CallRecord };

export interface CallOptions<Answer> {
  readonly timeoutMs?: number;
  /** What is wrong with an answer, if anything is. */
  readonly fault?: (answer: Answer) => string | undefined;
  /** An earlier failure that this call may suffer from. */
  readonly after?: CallRecord | undefined;
}

/** Makes unary calls through one relay and has each of them recorded. Never rejects. */
export class Caller {
  readonly relay: RelayName;
  readonly #who: string;
  readonly #socket: string;
  readonly #client: Client | undefined;
  readonly #gate: Gate;
  readonly #journal: Journal;

  /** @param client all calls share it; without it each call makes a connection of its own */
  constructor(
    who: string,
    target: { relay: RelayName; socket: string; gate: Gate; journal: Journal },
    client: Client | undefined,
  ) {
    this.relay = target.relay;
    this.#who = who;
    this.#socket = target.socket;
    this.#gate = target.gate;
    this.#journal = target.journal;
    this.#client = client;
  }

  call<Request, Answer>(
    method: MethodDefinition<Request, Answer>,
    request: Request,
    options: CallOptions<Answer> = {},
  ): Promise<Outcome<Answer>> {
    return this.#gate.through(async () => {
      const client = this.#client ?? crictlClient(this.#socket);
      try {
        return await this.#call(client, method, request, options);
      } finally {
        if (client !== this.#client) client.close();
      }
    });
  }

  async #call<Request, Answer>(
    client: Client,
    method: MethodDefinition<Request, Answer>,
    request: Request,
    { timeoutMs = PLAN.quickCallMs, fault, after }: CallOptions<Answer>,
  ): Promise<Outcome<Answer>> {
    const startedAt = performance.now();
    const { error, answer } = await raw(client, method, request, timeoutMs);
    const record: CallRecord = {
      relay: this.relay,
      client: this.#who,
      method: nameOf(method.path),
      startedAt,
      endedAt: performance.now(),
      code: error?.code ?? 0,
      details: error?.details ?? '',
      ownConnection: this.#client === undefined,
      isQuick: timeoutMs === PLAN.quickCallMs,
      ...(after && { after }),
    };
    const wrong = answer === undefined ? undefined : fault?.(answer);
    if (wrong !== undefined) this.#journal.wrongAnswer(record, wrong);
    else this.#journal.record(record);
    return answer === undefined || wrong !== undefined ? { failure: record } : { answer };
  }
}

/** "ListContainers" of "/runtime.v1.RuntimeService/ListContainers". */
export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function raw<Request, Answer>(
  client: Client,
  { path, requestSerialize, responseDeserialize }: MethodDefinition<Request, Answer>,
  request: Request,
  timeoutMs: number,
): Promise<{ error?: { code: number; details: string }; answer?: Answer }> {
  return new Promise((resolve) => {
    const deadline = Date.now() + timeoutMs;
    client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      new Metadata(),
      { deadline },
      (error, answer) => {
        if (error) resolve({ error });
        else if (answer === undefined) resolve({ error: { code: 13, details: 'OK without an answer' } });
        else resolve({ answer });
      },
    );
  });
}
