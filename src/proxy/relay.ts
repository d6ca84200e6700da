import { constants, createServer, type ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import { resolve } from 'node:path';
import { status } from '@grpc/grpc-js';
import { GantryError, messageOf } from '../errors.ts';
import { type Log, logToStderr } from '../log.ts';
import { Call } from './call.ts';
import { DEFAULT_DRAIN_TIMEOUT_MS, DEFAULT_UPSTREAM_WAIT_MS } from './defaults.ts';
import { drain } from './drain.ts';
import { requestHeaders } from './headers.ts';
import { type Mode, NO_OBSERVER, type RelayObserver } from './observe.ts';
import type { OwnMethods } from './own.ts';
import { type Route, routeOf } from './routes.ts';
import { serve } from './serve.ts';
import { CONNECTION_WINDOW_BYTES, DOWNSTREAM_OPTIONS } from './settings.ts';
import { listenOn, listenOnPassed } from './socket.ts';
import { trailersOnly } from './status.ts';
import { stopRequest } from './stop.ts';
import { Upstream } from './upstream.ts';

const MODES = { relay: 'piped', serve: 'served', refuse: 'refused' } as const satisfies Record<Route['kind'], Mode>;

// A client can make up any number of paths.
const REPORTED_PATHS = 1000;

export interface RelayOptions {
  /** The unix socket to serve the CRI on. */
  listen: string;
  /** A listening descriptor of that socket, which somebody else owns: nothing is bound then, and nothing removed. */
  listenFd?: number;
  /** The runtime's unix socket. */
  upstream: string;
  /** How long a call waits for a runtime that is not there before it is answered UNAVAILABLE. */
  upstreamWaitMs?: number;
  /** How long calls in flight may go on after `close`. */
  drainTimeoutMs?: number;
  /** Closes the relay when it aborts. */
  signal?: AbortSignal;
  log?: Log;
  /** Is told of every call and connection. */
  observer?: RelayObserver;
  /** What the relay answers itself. */
  own?: OwnMethods;
}

export interface Relay extends AsyncDisposable {
  readonly listen: string;
  /** Resolves when the relay has closed, for whatever reason. */
  readonly closed: Promise<void>;
  /** Stops accepting, lets calls in flight finish within the drain timeout, and removes the socket. */
  close(): Promise<void>;
}

/** Serves the CRI on a socket of its own by passing every call on to the runtime's. */
export async function serveRelay(options: RelayOptions): Promise<Relay> {
  const listen = resolve(options.listen);
  const upstreamPath = resolve(options.upstream);
  const { upstreamWaitMs = DEFAULT_UPSTREAM_WAIT_MS, drainTimeoutMs = DEFAULT_DRAIN_TIMEOUT_MS, signal } = options;
  const { observer = NO_OBSERVER, own } = options;
  const log = options.log ?? logToStderr();
  if (listen === upstreamPath) {
    throw new GantryError('USAGE', `the relay cannot listen on the runtime's own socket ${listen}`);
  }
  signal?.throwIfAborted();

  const upstream = new Upstream(upstreamPath, log, undefined, () => observer.upstreamConnected());
  const calls = new Set<Call>();
  const sockets = new Set<Socket>();
  const refuse = refuser(log);
  const stopping = new AbortController();
  const server = createServer(DOWNSTREAM_OPTIONS);
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    observer.connectionOpened();
    socket.on('close', () => {
      sockets.delete(socket);
      observer.connectionClosed();
    });
  });
  server.on('sessionError', () => undefined); // a client that breaks its own connection; its calls are cancelled by that
  server.on('session', (session) => {
    session.setLocalWindowSize(CONNECTION_WINDOW_BYTES);
    session.on('stream', (down, headers, flags, raw) => {
      // A stream's errors are the client's resets; what they mean for the call follows from its 'close'.
      down.on('error', () => undefined);
      try {
        const path = headers[':path'] ?? '';
        const route = routeOf(path, own);
        const observed = observer.callStarted(path, MODES[route.kind]);
        if (route.kind === 'refuse') {
          refuse(down, path, route.message);
          return observed.ended(status.UNIMPLEMENTED, route.message);
        }
        if (route.kind === 'serve') {
          void serve(down, route.method, stopping.signal).then(({ code, message }) => observed.ended(code, message));
          return;
        }
        const call = new Call(down, upstream, log, observed, (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0);
        calls.add(call);
        down.on('close', () => calls.delete(call));
        void call.start(requestHeaders(raw, headers), upstreamWaitMs);
      } catch (error) {
        log.error('internal-error', { reason: messageOf(error) });
        down.destroy();
      }
    });
  });

  const removeSocket =
    options.listenFd === undefined
      ? await listenOn(server, listen, upstreamPath)
      : await listenOnPassed(server, options.listenFd);
  server.on('error', (error) => log.error('internal-error', { reason: messageOf(error) }));
  log.info('started', { listen, upstream: upstreamPath });

  const { promise: closed, resolve: markClosed } = Promise.withResolvers<void>();
  let closing = false;
  const close = async (): Promise<void> => {
    if (closing) return closed;
    closing = true;
    log.info('stopping', { listen, callsInFlight: calls.size });
    try {
      await removeSocket(); // first, so that a successor need not wait for the drain
    } catch (error) {
      log.error('internal-error', { reason: `${listen} could not be removed: ${messageOf(error)}` });
    }
    stopping.abort();
    const callsCut = await drain(server, calls, sockets, drainTimeoutMs);
    upstream.close();
    log.info('stopped', { listen, callsCut });
    markClosed();
  };
  signal?.addEventListener('abort', () => void close(), { once: true });
  if (signal?.aborted === true) await close();
  return { listen, closed, close, [Symbol.asyncDispose]: close };
}

/** Answers calls that are not the CRI's, and reports each path once. */
function refuser(log: Log): (down: ServerHttp2Stream, path: string, message: string) => void {
  const reported = new Set<string>();
  return (down, path, message) => {
    if (down.destroyed || down.closed) return;
    down.respond(trailersOnly(status.UNIMPLEMENTED, message), { endStream: true });
    stopRequest(down);
    if (reported.has(path) || reported.size >= REPORTED_PATHS) return;
    reported.add(path);
    log.warn('path-refused', { path });
  };
}
