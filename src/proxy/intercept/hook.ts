import type { AnswerRewriter, CallHead, Decision, Fail, HeldCall, Interceptor, Status } from './interceptor.ts';

/** How a message is read and written: as generated from a .proto, preferably of the fields needed and no more. */
export interface Codec<T> {
  decode(bytes: Uint8Array): T;
  encode(message: T): { finish(): Uint8Array };
}

/** `Decision`, with messages that are decoded. */
export type TypedDecision<Request, Answer> =
  | {
      readonly kind: 'pass';
      readonly request?: Request;
      readonly rewriter?: TypedRewriter<Answer>;
    }
  | { readonly kind: 'answer'; readonly messages: Iterable<Answer> | AsyncIterable<Answer> }
  | Fail;

export interface TypedRewriter<Answer> {
  /** The same object, unchanged, passes as the bytes that came. */
  message?(message: Answer): Answer | undefined | Promise<Answer | undefined>;
  status?(status: Status): Status;
}

export interface Hook<Request, Answer> {
  readonly name: string;
  readonly service?: CallHead['service'];
  readonly method: string;
  readonly request: Codec<Request>;
  readonly answer: Codec<Answer>;
  /** Whether it has to see calls of the method at present; always when left out. */
  active?(): boolean;
  decide(request: Request, call: HeldCall): TypedDecision<Request, Answer> | Promise<TypedDecision<Request, Answer>>;
}

/** An interceptor of one method, in terms of its messages. */
export function hook<Request, Answer>(options: Hook<Request, Answer>): Interceptor {
  const { name, service = 'RuntimeService', method, request, answer, active = () => true } = options;
  const encoded = (decision: TypedDecision<Request, Answer>): Decision => {
    switch (decision.kind) {
      case 'fail':
        return decision;
      case 'answer':
        return { kind: 'answer', messages: encodedMessages(decision.messages, answer) };
      case 'pass':
        return {
          kind: 'pass',
          ...('request' in decision && { request: request.encode(decision.request as Request).finish() }),
          ...(decision.rewriter !== undefined && { rewriter: encodedRewriter(decision.rewriter, answer) }),
        };
    }
  };
  return {
    name,
    wants: (call) => call.method === method && call.service === service && active(),
    decide(bytes, call) {
      const decision = options.decide(request.decode(bytes), call);
      return decision instanceof Promise ? decision.then(encoded) : encoded(decision);
    },
  };
}

async function* encodedMessages<T>(messages: Iterable<T> | AsyncIterable<T>, codec: Codec<T>) {
  for await (const message of messages) yield codec.encode(message).finish();
}

function encodedRewriter<T>({ message, status }: TypedRewriter<T>, codec: Codec<T>): AnswerRewriter {
  return {
    ...(status && { status }),
    ...(message && {
      message(bytes: Uint8Array) {
        const decoded = codec.decode(bytes);
        // What has not been touched goes on as the bytes that came: an encoder may order fields in another way.
        const encoded = (changed: T | undefined) =>
          changed === decoded ? bytes : changed && codec.encode(changed).finish();
        const changed = message(decoded);
        return changed instanceof Promise ? changed.then(encoded) : encoded(changed);
      },
    }),
  };
}
