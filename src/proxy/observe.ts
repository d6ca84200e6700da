import type { Peek } from './peek.ts';
import type { Ask } from './subjects.ts';

/**
 * What the relay did with a call: passed it on as it was, let an interceptor take hold of it, answered it by a method of
 * its own, or refused it.
 */
export type Mode = 'piped' | 'intercepted' | 'served' | 'refused';

/** One call, told about by whoever relays it: each at most once and in this order, and only `ended` always. */
export interface ObservedCall {
  /** Whether somebody wants to know the bytes of this call; else nothing need be added to them. */
  readonly countsBytes: boolean;
  bytesUp: number;
  bytesDown: number;
  /** Who wants to see the messages of this call cross; undefined when nobody does. */
  readonly peek?: Peek | undefined;
  /** The relay has done its part: from here on the call is the runtime's, or waits for it. */
  forwarding(): void;
  /** The end of the runtime's answer has come, or nothing of it will. */
  answered(): void;
  /**
   * The client has the whole answer, or has gone.
   *
   * @param code the gRPC status it was given; CANCELLED when it has gone
   * @param message the status's message, percent-encoded or not
   */
  ended(code: number, message?: string): void;
}

/** What the relay tells about itself, so that logs, metrics and followers need no place in its code. */
export interface RelayObserver {
  callStarted(path: string, mode: Mode): ObservedCall;
  connectionOpened(): void;
  connectionClosed(): void;
  /** There is a new connection with the runtime. `ask` is for questions of one's own. */
  upstreamConnected(ask: Ask): void;
}

const IGNORED: ObservedCall = {
  countsBytes: false,
  bytesUp: 0,
  bytesDown: 0,
  forwarding: () => undefined,
  answered: () => undefined,
  ended: () => undefined,
};

export const NO_OBSERVER: RelayObserver = {
  callStarted: () => IGNORED,
  connectionOpened: () => undefined,
  connectionClosed: () => undefined,
  upstreamConnected: () => undefined,
};
