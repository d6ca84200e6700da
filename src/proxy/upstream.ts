import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { errnoOf, messageOf } from '../errors.ts';
import { status } from '../grpc-status.ts';
import type { Log } from '../log.ts';
import { connected } from './h2/connect.ts';
import type { Connection } from './h2/connection.ts';
import { type Field, field } from './h2/fields.ts';
import { ErrorCode } from './h2/frames.ts';
import { askRuntimeApi, type RuntimeApi, v1alpha2Path } from './runtime-api.ts';
import { UPSTREAM_LIMITS } from './settings.ts';
import type { Ask } from './subjects.ts';
import { callUnary } from './unary.ts';

const POLL_MS = 50;
const STARTING_POLL_MS = 10;
// How long calls wait for the runtime to say which version it speaks. One that hangs is none of the relay's to answer for.
const ASK_MS = 500;
// Stream IDs are odd 31-bit numbers and never reused: a connection takes no more after a billion calls, some years at
// kubelet's pace. It is replaced long before.
const CALLS_PER_SESSION = 2 ** 29;

/**
 * The one connection with the runtime, shared by all downstream connections.
 *
 *   absent ── a call waits ──▶ connecting ── connected ──▶ open ── closed, GOAWAY, used up ──▶ absent
 *                 ◀── nobody waits any more ──┘
 *
 * `connecting` polls on behalf of all waiting calls together. A session that got an orderly GOAWAY carries its calls
 * to their end while the next one is already open.
 */
type State =
  | { kind: 'absent' }
  | { kind: 'connecting'; session: Promise<Connection | undefined> }
  | { kind: 'open'; session: Connection; calls: number };

export interface UpstreamOptions {
  /** There is a new connection; `ask` calls a method of the runtime service on it. */
  onConnected?: (ask: Ask) => void;
  /** Which version of the CRI the runtime speaks; `auto` asks it whenever there is a new connection. */
  runtimeApi?: 'auto' | RuntimeApi;
}

export class Upstream {
  readonly path: string;
  readonly #log: Log;
  readonly #callsPerSession: number;
  readonly #onConnected: (ask: Ask) => void;
  readonly #asks: boolean;
  #api: RuntimeApi;
  #apiKnown: boolean;
  readonly #sessions = new Set<Connection>();
  #state: State = { kind: 'absent' };
  #waiting = 0;
  #closed = false;
  #absentSince: number | undefined;

  constructor(path: string, log: Log, callsPerSession = CALLS_PER_SESSION, options: UpstreamOptions = {}) {
    const { onConnected = () => undefined, runtimeApi = 'v1' } = options;
    this.path = path;
    this.#log = log;
    this.#callsPerSession = callsPerSession;
    this.#onConnected = onConnected;
    this.#asks = runtimeApi === 'auto';
    this.#api = runtimeApi === 'auto' ? 'v1' : runtimeApi;
    this.#apiKnown = runtimeApi !== 'auto';
  }

  /** Which version of the CRI the runtime speaks; undefined as long as it has not said. */
  get speaks(): RuntimeApi | undefined {
    return this.#apiKnown ? this.#api : undefined;
  }

  /** What a call's path is at the runtime, if it is another one there. */
  pathFor(path: string): Field | undefined {
    return this.#api === 'v1' ? undefined : v1alpha2Path(path);
  }

  /** A session for one call, now or not at all: the path that nearly every call takes. */
  openSession(): Connection | undefined {
    if (this.#state.kind !== 'open') return undefined;
    const { session, calls } = this.#state;
    if (!session.usable) return undefined;
    if (calls >= this.#callsPerSession) {
      this.#state = { kind: 'absent' };
      session.close();
      return undefined;
    }
    this.#state.calls += 1;
    return session;
  }

  /** Waits until the runtime is there, or `signal` aborts; resolves with undefined then. */
  async waitForSession(signal: AbortSignal): Promise<Connection | undefined> {
    const aborted = once(signal, 'abort').catch(() => undefined);
    this.#waiting += 1;
    try {
      while (!signal.aborted && !this.#closed) {
        if (this.#state.kind !== 'connecting') this.#state = { kind: 'connecting', session: this.#connect() };
        await Promise.race([this.#state.session, aborted]);
        const session = this.openSession();
        if (session !== undefined) return session;
      }
      return undefined;
    } finally {
      this.#waiting -= 1;
    }
  }

  close(): void {
    this.#closed = true;
    this.#state = { kind: 'absent' };
    for (const session of this.#sessions) session.destroy();
  }

  async #connect(): Promise<Connection | undefined> {
    do {
      try {
        const session = await this.#dial();
        if (this.#asks) await this.#started(session);
        if (this.#closed) session.destroy();
        else if (session.usable) return this.#open(session);
        else await delay(POLL_MS);
      } catch (error) {
        this.#reportAbsent(error);
        await delay(POLL_MS);
      }
    } while (this.#waiting > 0 && !this.#closed);
    this.#state = { kind: 'absent' };
    return undefined;
  }

  async #dial(): Promise<Connection> {
    let session: Connection | undefined;
    session = await connected(
      this.path,
      {
        onGoaway: (code) => session && this.#onGoaway(session, code),
        onClose: ({ message }) => session && this.#onClose(session, message),
        onInternalError: (error) => this.#log.error('internal-error', { reason: messageOf(error) }),
      },
      UPSTREAM_LIMITS,
    );
    this.#sessions.add(session);
    return session;
  }

  /** Asks until the runtime no longer says that it is starting, and nobody longer than somebody waits for it. */
  async #started(session: Connection): Promise<void> {
    while (session.usable && this.#waiting > 0 && !this.#closed) {
      const answer = await Promise.race([this.#ask(session), delay(ASK_MS, undefined, { ref: false })]);
      if (answer !== 'starting') return;
      await delay(STARTING_POLL_MS);
    }
  }

  /** An answer that comes late still counts. */
  async #ask(session: Connection): Promise<'starting' | undefined> {
    const api = await askRuntimeApi(session);
    if (api === 'starting') return api;
    if (api === undefined) return;
    this.#apiKnown = true;
    if (api === this.#api) return;
    this.#api = api;
    this.#log.info('runtime-api', { upstream: this.path, version: api });
  }

  #open(session: Connection): Connection {
    this.#state = { kind: 'open', session, calls: 0 };
    this.#onConnected(async (method, request) => {
      const path = `/runtime.v1.RuntimeService/${method}`;
      const answer = await callUnary(session, this.pathFor(path) ?? field(':path', path), request);
      return answer?.code === status.OK ? answer.message : undefined;
    });
    if (this.#absentSince !== undefined) {
      this.#log.info('upstream-back', {
        upstream: this.path,
        absentMs: Math.round(performance.now() - this.#absentSince),
      });
      this.#absentSince = undefined;
    }
    return session;
  }

  // With code 0 the calls in flight finish; with any other, what becomes of them is not to be relied on.
  #onGoaway(session: Connection, code: number): void {
    this.#lose(session, `it sent GOAWAY ${code}`);
    if (code !== ErrorCode.NO_ERROR) session.destroy();
  }

  #onClose(session: Connection, reason: string): void {
    this.#sessions.delete(session);
    this.#lose(session, reason);
  }

  /** No new calls for this session. */
  #lose(session: Connection, reason: string): void {
    if (this.#state.kind !== 'open' || this.#state.session !== session) return;
    this.#state = { kind: 'absent' };
    this.#absentSince = performance.now();
    this.#log.warn('upstream-lost', { upstream: this.path, reason });
  }

  // Once per absence, and not after a loss, which has been reported already.
  #reportAbsent(error: unknown): void {
    if (this.#absentSince !== undefined) return;
    this.#absentSince = performance.now();
    this.#log.warn('upstream-absent', { upstream: this.path, reason: errnoOf(error) ?? messageOf(error) });
  }
}
