/** The ways to the runtime that are no program of their own: `child.ts ROLE LISTEN UPSTREAM`, in a process each. */
import {
  connect as connectHttp2,
  constants,
  createServer as createHttp2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import { connect, createServer } from 'node:net';
import type { Interceptor } from '../../../src/proxy/intercept/interceptor.ts';

/** The limit: whoever stands between two sockets in Node can do no less. */
function splice(path: string, upstreamPath: string): void {
  const server = createServer((down) => {
    const up = connect(upstreamPath);
    down.on('error', () => up.destroy());
    up.on('error', () => down.destroy());
    down.pipe(up).pipe(down);
  });
  server.listen(path, ready);
}

/** The easy way: Node's HTTP/2 on either side, streams piped; no reconnecting, no errors mapped. */
function pipe(path: string, upstreamPath: string): void {
  const session = connectHttp2('http://localhost', { path: upstreamPath, maxSessionMemory: 1000 } as object);
  const server = createHttp2Server({ maxSessionMemory: 1000 });
  server.on('stream', (down: ServerHttp2Stream, headers) => {
    const up = session.request({ ...headers, ':authority': 'localhost' });
    let trailers: IncomingHttpHeaders = {};
    up.on('response', (answer, flags) => {
      const only = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
      down.respond(answer, only ? { endStream: true } : { waitForTrailers: true });
    });
    up.on('trailers', (fields) => {
      trailers = fields;
    });
    down.on('wantTrailers', () => down.sendTrailers(trailers));
    down.on('error', () => up.close());
    up.on('error', () => down.close());
    down.pipe(up).pipe(down);
  });
  server.listen(path, ready);
}

/** The relay with an interceptor that has every call decoded and lets it pass. */
async function looking(path: string, upstreamPath: string): Promise<void> {
  const [{ serveRelay }, { silentLog }, { CallLog }, { RelayMetrics }, { Recorder }] = await Promise.all([
    import('../../../src/proxy/relay.ts'),
    import('../../../src/log.ts'),
    import('../../../src/proxy/call-log.ts'),
    import('../../../src/proxy/metrics.ts'),
    import('../../../src/proxy/recorder.ts'),
  ]);
  const { textAt } = await import('../../../src/proxy/wire.ts');
  const observer = new Recorder([new CallLog(silentLog), new RelayMetrics()]);
  const interceptor: Interceptor = {
    name: 'bench',
    wants: () => true,
    decide: (request) => (textAt(request, [1]) === 'hold' ? new Promise(() => undefined) : { kind: 'pass' }),
  };
  await serveRelay({ listen: path, upstream: upstreamPath, log: silentLog, observer, interceptors: [interceptor] });
  ready();
}

function ready(): void {
  process.on('disconnect', () => process.exit(0));
  process.send?.('ready');
}

const ROLES = { splice, pipe, looking } as const;
export type Role = keyof typeof ROLES;

const [role, listen = '', upstream = ''] = process.argv.slice(2);
if (role !== undefined && role in ROLES && process.send !== undefined) void ROLES[role as Role](listen, upstream);
