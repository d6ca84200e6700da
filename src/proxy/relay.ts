import { createServer, type Socket } from 'node:net';
import { resolve } from 'node:path';
import { GantryError, messageOf } from '../errors.ts';
import { status } from '../grpc-status.ts';
import { type Log, logToStderr } from '../log.ts';
import { Call } from './call.ts';
import { DEFAULT_DRAIN_TIMEOUT_MS, DEFAULT_UPSTREAM_WAIT_MS } from './defaults.ts';
import { type Accepted, drain, type InFlight, readsOver, runsOver } from './drain.ts';
import { Connection } from './h2/connection.ts';
import { type Fields, fieldValue } from './h2/fields.ts';
import { ErrorCode } from './h2/frames.ts';
import { withPooledReads } from './h2/pooled-socket.ts';
import { NOBODY, type Stream, type StreamHandler } from './h2/stream.ts';
import { Interception } from './intercept/interception.ts';
import type { CallHead, Interceptor } from './intercept/interceptor.ts';
import { type Mode, NO_OBSERVER, type RelayObserver } from './observe.ts';
import type { OwnMethods } from './own.ts';
import { type Route, Routes } from './routes.ts';
import type { RuntimeApi } from './runtime-api.ts';
import { serve } from './serve.ts';
import { DOWNSTREAM_LIMITS } from './settings.ts';
import { listenOn, listenOnPassed } from './socket.ts';
import { trailersOnly } from './status.ts';
import { Upstream } from './upstream.ts';
import { versionAsV1 } from './version.ts';

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
  /** Which version of the CRI the runtime speaks; `auto` asks it. */
  runtimeApi?: 'auto' | RuntimeApi;
  /** How long calls in flight may go on after `close`. */
  drainTimeoutMs?: number;
  /** Closes the relay when it aborts. */
  signal?: AbortSignal;
  log?: Log;
  /** Is told of every call and connection. */
  observer?: RelayObserver;
  /** What the relay answers itself. */
  own?: OwnMethods;
  /** Who may take hold of calls, in the order in which they see one. */
  interceptors?: readonly Interceptor[];
}

export interface Relay extends AsyncDisposable {
  readonly listen: string;
  /** Resolves when the relay has closed, for whatever reason. */
  readonly closed: Promise<void>;
  /** Resolves when the calls in flight that read have ended. Rejects with the signal's reason. */
  readsOver(signal: AbortSignal): Promise<void>;
  /** Resolves when the calls in flight that run something inside a container have ended, or have had two seconds for it. */
  runsOver(): Promise<void>;
  /** Stops accepting, lets calls in flight finish within the drain timeout, and removes the socket. */
  close(): Promise<void>;
}

/** Serves the CRI on a socket of its own by passing every call on to the runtime's. */
export async function serveRelay(options: RelayOptions): Promise<Relay> {
  const listen = resolve(options.listen);
  const upstreamPath = resolve(options.upstream);
  const { upstreamWaitMs = DEFAULT_UPSTREAM_WAIT_MS, drainTimeoutMs = DEFAULT_DRAIN_TIMEOUT_MS, signal } = options;
  const { observer = NO_OBSERVER, own, runtimeApi = 'v1' } = options;
  const log = options.log ?? logToStderr();
  if (listen === upstreamPath) {
    throw new GantryError('USAGE', `the relay cannot listen on the runtime's own socket ${listen}`);
  }
  signal?.throwIfAborted();

  const upstream = new Upstream(upstreamPath, log, undefined, {
    onConnected: (ask) => observer.upstreamConnected(ask),
    runtimeApi,
  });
  const interceptors = [versionAsV1(() => upstream.speaks), ...(options.interceptors ?? [])];
  const routes = new Routes(own);
  const calls = new Set<InFlight>();
  const accepted = new Set<Accepted>();
  const refuse = refuser(log);
  const stopping = new AbortController();
  const forget = (call: InFlight): void => void calls.delete(call);

  const onStream = (down: Stream, headers: Fields, endStream: boolean): StreamHandler => {
    const path = fieldValue(headers, ':path') ?? '';
    const route = routes.of(path);
    const wanting = route.kind === 'relay' ? wantedBy(interceptors, route) : undefined;
    const observed = observer.callStarted(path, wanting === undefined ? MODES[route.kind] : 'intercepted');
    switch (route.kind) {
      case 'refuse':
        refuse(down, path, route.message);
        observed.ended(status.UNIMPLEMENTED, route.message);
        return NOBODY;
      case 'serve':
        void serve(down, headers, endStream, route.method, stopping.signal).then((end) =>
          observed.ended(end.code, end.message),
        );
        return down.handler;
      case 'relay': {
        const relayed = (ended: boolean): Call => {
          const call = new Call(down, path, headers, ended, upstream, log, observed, forget);
          calls.add(call);
          return call;
        };
        if (wanting === undefined) return relayed(endStream).start(upstreamWaitMs);
        const interception = new Interception(down, route, headers, wanting, {
          observed,
          log,
          whenOver: forget,
          pass(prepared) {
            const call = relayed(true);
            call.resume(prepared);
            call.start(upstreamWaitMs);
          },
        });
        calls.add(interception);
        if (endStream) interception.endRequest();
        return down.handler;
      }
    }
  };
  const server = createServer({ pauseOnConnect: true }, (client: Socket) => {
    observer.connectionOpened();
    const socket = withPooledReads(client, (view) => connection.read(view));
    const connection: Connection = new Connection(
      'server',
      socket,
      {
        onStream,
        onClose: () => undefined, // its calls have been told
        onInternalError: (error) => log.error('internal-error', { reason: messageOf(error) }),
      },
      DOWNSTREAM_LIMITS,
    );
    const entry: Accepted = { socket, connection };
    accepted.add(entry);
    socket.on('close', () => {
      accepted.delete(entry);
      observer.connectionClosed();
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
    const callsCut = await drain(server, calls, accepted, drainTimeoutMs);
    upstream.close();
    log.info('stopped', { listen, callsCut });
    markClosed();
  };
  signal?.addEventListener('abort', () => void close(), { once: true });
  if (signal?.aborted === true) await close();
  return {
    listen,
    closed,
    readsOver: (limit) => readsOver(calls, limit),
    runsOver: () => runsOver(calls),
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** Those that have to see a call; undefined when there are none, so that nothing is made for calls that nobody wants. */
function wantedBy(interceptors: readonly Interceptor[], head: CallHead): readonly Interceptor[] | undefined {
  let wanting: Interceptor[] | undefined;
  for (const one of interceptors) {
    if (!one.wants(head)) continue;
    wanting ??= [];
    wanting.push(one);
  }
  return wanting;
}

/** Answers calls that are not the CRI's, and reports each path once. */
function refuser(log: Log): (down: Stream, path: string, message: string) => void {
  const reported = new Set<string>();
  return (down, path, message) => {
    down.sendHeaders(trailersOnly(status.UNIMPLEMENTED, message), true);
    down.resetWhenSent(ErrorCode.NO_ERROR);
    if (reported.has(path) || reported.size >= REPORTED_PATHS) return;
    reported.add(path);
    log.warn('path-refused', { path });
  };
}
