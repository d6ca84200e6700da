import { once } from 'node:events';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { connect as connectSocket, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { errnoOf, messageOf } from '../errors.ts';
import type { Log } from '../log.ts';
import { CONNECTION_WINDOW_BYTES, UPSTREAM_OPTIONS } from './settings.ts';

const POLL_MS = 50;
// Stream IDs are odd 31-bit numbers and never reused: a session ends by itself after a billion calls, some years at
// kubelet's pace. It is replaced long before.
const CALLS_PER_SESSION = 2 ** 29;

/**
 * The one HTTP/2 session with the runtime, shared by all downstream connections.
 *
 *   absent ── a call waits ──▶ connecting ── connected ──▶ open ── closed, GOAWAY, used up ──▶ absent
 *                 ◀── nobody waits any more ──┘
 *
 * `connecting` polls on behalf of all waiting calls together. A session that got an orderly GOAWAY carries its calls
 * to their end while the next one is already open.
 */
type State =
  | { kind: 'absent' }
  | { kind: 'connecting'; session: Promise<ClientHttp2Session | undefined> }
  | { kind: 'open'; session: ClientHttp2Session; calls: number };

export class Upstream {
  readonly path: string;
  readonly #log: Log;
  readonly #callsPerSession: number;
  readonly #onConnected: () => void;
  readonly #sessions = new Set<ClientHttp2Session>();
  #state: State = { kind: 'absent' };
  #waiting = 0;
  #closed = false;
  #absentSince: number | undefined;

  constructor(path: string, log: Log, callsPerSession = CALLS_PER_SESSION, onConnected: () => void = () => undefined) {
    this.#onConnected = onConnected;
    this.path = path;
    this.#log = log;
    this.#callsPerSession = callsPerSession;
  }

  /** A session for one call, now or not at all: the path that nearly every call takes. */
  openSession(): ClientHttp2Session | undefined {
    if (this.#state.kind !== 'open') return undefined;
    const { session, calls } = this.#state;
    if (session.closed || session.destroyed) return undefined;
    if (calls >= this.#callsPerSession) {
      this.#state = { kind: 'absent' };
      session.close();
      return undefined;
    }
    this.#state.calls += 1;
    return session;
  }

  /** Waits until the runtime is there, or `signal` aborts; resolves with undefined then. */
  async waitForSession(signal: AbortSignal): Promise<ClientHttp2Session | undefined> {
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

  async #connect(): Promise<ClientHttp2Session | undefined> {
    do {
      try {
        const socket = await connectedSocket(this.path);
        if (!this.#closed) return this.#open(socket);
        socket.destroy();
      } catch (error) {
        this.#reportAbsent(error);
        await delay(POLL_MS);
      }
    } while (this.#waiting > 0 && !this.#closed);
    this.#state = { kind: 'absent' };
    return undefined;
  }

  #open(socket: Socket): ClientHttp2Session {
    // The socket tells first, the session when it has cleaned up: no call is sent in between.
    socket.on('error', (error) => this.#lose(session, messageOf(error)));
    socket.on('end', () => this.#lose(session, 'it closed the connection'));
    socket.on('close', () => this.#lose(session, 'it closed the connection'));
    const session = connectHttp2('http://localhost', { ...UPSTREAM_OPTIONS, createConnection: () => socket });
    session.setLocalWindowSize(CONNECTION_WINDOW_BYTES);
    session.on('error', (error) => this.#lose(session, messageOf(error)));
    // With code 0 Node lets the calls in flight finish, with any other it destroys the session.
    session.on('goaway', (code) => this.#lose(session, `it sent GOAWAY ${code}`));
    session.on('close', () => this.#sessions.delete(session));
    this.#sessions.add(session);
    this.#state = { kind: 'open', session, calls: 0 };
    this.#onConnected();
    if (this.#absentSince !== undefined) {
      this.#log.info('upstream-back', {
        upstream: this.path,
        absentMs: Math.round(performance.now() - this.#absentSince),
      });
      this.#absentSince = undefined;
    }
    return session;
  }

  /** No new calls for this session. */
  #lose(session: ClientHttp2Session, reason: string): void {
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

async function connectedSocket(path: string): Promise<Socket> {
  const socket = connectSocket(path);
  try {
    await once(socket, 'connect');
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}
