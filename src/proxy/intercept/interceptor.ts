import type { StatusCode } from '../../grpc-status.ts';

/**
 * The seam of the relay: whoever wants to look at calls of the CRI, change them, answer them or hold them is an
 * interceptor. A call that none of them wants crosses as bytes.
 *
 * Nothing is locked meanwhile: a call that is held holds up no other, and the runtime is asked for nothing before it
 * is let go.
 */
export interface Interceptor {
  /** For logs: "surgery". */
  readonly name: string;
  /**
   * Whether it has to see this call. Asked once for every call, before anything of its message is read, so it should be no
   * more than a look into a table; and false whenever nothing on the node needs it.
   */
  wants(call: CallHead): boolean;
  /**
   * What becomes of the call. It may take as long as the client waits. What is thrown ends the call with that error's
   * status (GantryError), INTERNAL for others.
   *
   * @param request the message, unpacked, at most 16 MiB of it
   */
  decide(request: Uint8Array, call: HeldCall): Decision | Promise<Decision>;
}

/** What is known of a call from its first bytes. */
export interface CallHead {
  readonly service: 'RuntimeService' | 'ImageService';
  /** "StopContainer". */
  readonly method: string;
}

/** A call that waits for a decision. */
export interface HeldCall extends CallHead {
  /** When the client stops waiting (`grpc-timeout`), in milliseconds of `performance.now()`; Infinity when it does not say. */
  readonly deadline: number;
  /**
   * Aborts when the client has given the call up or gone, when the deadline has passed, and when the relay stops.
   * Whoever holds a call watches it; what is decided afterwards is of no interest any more.
   */
  readonly signal: AbortSignal;
}

export type Decision = Pass | Answer | Fail;

/** To the runtime, with what is left of the client's deadline. The next interceptor that wants it comes first. */
export interface Pass {
  readonly kind: 'pass';
  /** The message that takes the place of the client's. */
  readonly request?: Uint8Array;
  /** Sees what the runtime answers; without one the answer crosses as bytes. */
  readonly rewriter?: AnswerRewriter;
}

/** With these messages, and OK; the runtime is not asked. Each is taken when the client has room for it. */
export interface Answer {
  readonly kind: 'answer';
  readonly messages: Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
}

/** With this status; the runtime is not asked. */
export interface Fail extends Status {
  readonly kind: 'fail';
}

export interface Status {
  readonly code: StatusCode;
  readonly message: string;
}

/** Changes an answer on its way to the client, in order and message by message. What it throws ends the call. */
export interface AnswerRewriter {
  /** The message that takes its place; undefined to leave it out (of a stream). At most 16 MiB before and after. */
  message?(message: Uint8Array): Uint8Array | undefined | Promise<Uint8Array | undefined>;
  /** One more message, after the last of an answer that ends well. Of several rewriters of one answer, one may have it. */
  end?(): Uint8Array | undefined;
  /** The status that takes its place. When it is another one, `grpc-status-details-bin`, which repeats it, is left out. */
  status?(status: Status): Status;
}

export const PASS: Pass = { kind: 'pass' };
