import type { MethodDefinition } from '@grpc/grpc-js';
import { message, type RawClient } from '../../../src/proxy/relay.fixture.ts';
import type { Progress } from './answer.ts';
import type { Twin } from './twin.ts';

/** The Debian releases of the lab, by their containerd: 1.6, 1.7, 2.1. */
export const SUITES = ['bookworm', 'trixie', 'forky'] as const;
export type Suite = (typeof SUITES)[number];

/** One call, made on the runtime's socket and through the relay. */
export interface Step {
  /** What is done, as a sentence. */
  readonly name: string;
  readonly path: string;
  readonly streams: boolean;
  /** `twins`: each socket is asked about its own twin's object. `one`: both about the same. */
  readonly about: 'twins' | 'one';
  /** The messages have the same bytes; possible only with one object. */
  readonly sameBytes: boolean;
  /** How often both are asked until the answers are the same. */
  readonly attempts: number;
  /** The gRPC status of both: a comparison of two failures shows little where success was meant. */
  readonly status: ExpectedStatus;
  /** The first suite whose runtime has the method; in older ones the status is UNIMPLEMENTED. `later`: none has it yet. */
  readonly since: Suite | 'later';
  /** For runtimes that serve only one watcher at a time. */
  readonly inTurn: boolean;
  readonly headers: readonly string[];
  body(twin: Twin): Buffer;
  decode(bytes: Buffer): unknown;
  encodedLength(message: unknown): number;
  /** Takes what later steps need from the answer's first message. */
  keep(twin: Twin, message: unknown): void;
  isAbout(message: unknown, twin: Twin): boolean;
  readonly meanwhile: ((client: RawClient, twin: Twin, progress: Progress) => Promise<void>) | undefined;
}

/** For two things in the order of a Go map: of two orders it is the same half of the time. */
export const UNTIL_IN_ORDER = 40;

/** For what depends on the moment: the runtime gathers statistics now and then, and a deadline meets a busy one earlier. */
export const UNTIL_QUIET = 3;

/** `any` where it depends on the runtime's version. */
type ExpectedStatus = number | 'failure' | 'any';

export interface StepOptions<A> {
  sameBytes?: boolean;
  attempts?: number;
  status?: ExpectedStatus;
  since?: Suite | 'later';
  inTurn?: boolean;
  headers?: readonly string[];
  /** Instead of the request with its framing. */
  body?: (request: Buffer) => Buffer;
  keep?: (twin: Twin, answer: A) => void;
  /** Which messages of a stream are compared; all when left out. */
  isAbout?: (message: A, twin: Twin) => boolean;
  meanwhile?: (client: RawClient, twin: Twin, progress: Progress) => Promise<void>;
}

type Method<Q, A> = MethodDefinition<Q, A>;

/** Each socket is asked about its own twin's object. */
export function twins<Q, A>(
  name: string,
  method: Method<Q, A>,
  request: (twin: Twin) => Q,
  options: StepOptions<A> = {},
): Step {
  return make('twins', name, method, request, options);
}

/** Both sockets are asked about the direct twin's object, or about none. */
export function one<Q, A>(
  name: string,
  method: Method<Q, A>,
  request: (twin: Twin) => Q,
  options: StepOptions<A> = {},
): Step {
  return make('one', name, method, request, options);
}

function make<Q, A>(
  about: Step['about'],
  name: string,
  method: Method<Q, A>,
  request: (twin: Twin) => Q,
  options: StepOptions<A>,
): Step {
  const {
    sameBytes = false,
    attempts = 1,
    status = 0,
    since = 'bookworm',
    inTurn = false,
    headers = [],
    body = message,
  } = options;
  return {
    name,
    path: method.path,
    streams: method.responseStream,
    about,
    sameBytes,
    attempts,
    status,
    since,
    inTurn,
    headers,
    body: (twin) => body(method.requestSerialize(request(twin))),
    decode: method.responseDeserialize,
    encodedLength: (content) => method.responseSerialize(content as A).length,
    keep: (twin, content) => options.keep?.(twin, content as A),
    isAbout: (content, twin) => options.isAbout?.(content as A, twin) ?? true,
    meanwhile: options.meanwhile,
  };
}
