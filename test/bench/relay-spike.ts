/**
 * What a relay costs: calls straight to a trivial upstream, through a plain splice of the two sockets, through the bare
 * engine of src/proxy/h2 and through the whole relay on it, each in a process of its own, all in one run, in turns.
 *
 *   node_modules/.bin/node test/bench/relay-spike.ts [--calls 2000] [--seconds 3] [--only engine] [--json]
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import {
  type ClientHttp2Session,
  connect as connectHttp2,
  createServer as createHttp2Server,
  type ServerHttp2Stream,
} from 'node:http2';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Connection } from '../../src/proxy/h2/connection.ts';

const PATHS = { small: '/runtime.v1.RuntimeService/Version', large: '/runtime.v1.RuntimeService/ListContainers' };
type Reply = keyof typeof PATHS;
const REPLY_BYTES: Record<Reply, number> = { small: 60, large: 244_000 };
const IN_FLIGHT = 16;
const WAYS = ['direct', 'splice', 'engine', 'relay'] as const;
type Way = (typeof WAYS)[number];

// ---- the processes

function serveUpstream(path: string): void {
  const replies = new Map(
    Object.keys(PATHS).map((name) => [PATHS[name as Reply], message(REPLY_BYTES[name as Reply])]),
  );
  const server = createHttp2Server({ settings: { initialWindowSize: 1024 * 1024 } });
  server.on('session', (session) => session.on('error', () => undefined));
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    stream.on('error', () => undefined);
    stream.resume();
    stream.on('end', () => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'grpc-message': '' }));
      stream.end(replies.get(headers[':path'] ?? ''));
    });
  });
  server.listen(path, answerUsage);
}

function serveSplice(path: string, upstreamPath: string): void {
  const server = createServer((down) => {
    const up = connect(upstreamPath);
    down.on('error', () => up.destroy());
    up.on('error', () => down.destroy());
    down.pipe(up).pipe(down);
  });
  server.listen(path, answerUsage);
}

async function serveWholeRelay(path: string, upstreamPath: string): Promise<void> {
  const { serveRelay } = await import('../../src/proxy/relay.ts');
  const { silentLog } = await import('../../src/log.ts');
  const { CallLog } = await import('../../src/proxy/call-log.ts');
  const { RelayMetrics } = await import('../../src/proxy/metrics.ts');
  const { Recorder } = await import('../../src/proxy/recorder.ts');
  const observer = new Recorder([new CallLog(silentLog), new RelayMetrics()]);
  await serveRelay({ listen: path, upstream: upstreamPath, log: silentLog, observer });
  answerUsage();
}

async function serveEngine(path: string, upstreamPath: string): Promise<void> {
  const { connect: connectEngine } = await import('../../src/proxy/h2/connect.ts');
  const { Connection } = await import('../../src/proxy/h2/connection.ts');
  const { Splice } = await import('../../src/proxy/h2/splice.ts');
  const ended = { onClose: () => undefined };
  let up: Connection | undefined;
  const server = createServer((socket) => {
    if (up?.usable !== true) up = connectEngine(upstreamPath, ended);
    new Connection('server', socket, {
      ...ended,
      onStream(stream, headers, endStream) {
        const splice = new Splice(stream, headers, endStream, { onLoss: () => undefined });
        if (up !== undefined) splice.forward(up);
        return splice;
      },
    });
  });
  server.listen(path, answerUsage);
}

/** Tells the parent that this process serves, and what it has used whenever the parent asks. */
function answerUsage(): void {
  process.on('message', () => process.send?.({ ...process.cpuUsage(), rss: process.memoryUsage().rss }));
  process.on('disconnect', () => process.exit(0));
  process.send?.('ready');
}

function message(bytes: number): Buffer {
  const whole = Buffer.alloc(5 + bytes, 'x');
  whole.writeUInt8(0, 0);
  whole.writeUInt32BE(bytes, 1);
  return whole;
}

// ---- measuring

interface Usage {
  user: number;
  system: number;
  rss: number;
}

interface Figures {
  p50: Record<Reply, number>;
  p99: Record<Reply, number>;
  callsPerSecond: Record<Reply, number>;
  cpuMicros: Record<Reply, number>;
  rssMiB: { start: number; small: number; large: number };
}

async function measure(): Promise<void> {
  const { values } = parseArgs({
    options: {
      calls: { type: 'string', default: '2000' },
      seconds: { type: 'string', default: '3' },
      only: { type: 'string' },
      json: { type: 'boolean', default: false },
      prof: { type: 'string' },
      'node-args': { type: 'string', default: '' },
    },
  });
  const ways = WAYS.filter((way) => values.only === undefined || way === 'direct' || way === values.only);
  const folder = await mkdtemp(join(tmpdir(), 'gantry-spike-'));
  const program = await bundle(folder);
  const children: ChildProcess[] = [];
  try {
    const path = (way: string): string => join(folder, `${way}.sock`);
    children.push(await start(program, 'serve-upstream', path('direct'), '', []));
    const relays = new Map<Way, ChildProcess>();
    for (const way of ways) {
      if (way === 'direct') continue;
      const prof =
        way === (values.only ?? 'relay') && values.prof !== undefined
          ? ['--cpu-prof', `--cpu-prof-dir=${values.prof}`]
          : [];
      const args = [...values['node-args'].split(' ').filter(Boolean), ...prof];
      const child = await start(program, `serve-${way}`, path(way), path('direct'), args);
      children.push(child);
      relays.set(way, child);
    }
    const sessions = new Map(ways.map((way) => [way, client(path(way))]));
    const figures = new Map<Way, Figures>(ways.map((way) => [way, empty()]));
    const weigh = async (when: 'start' | Reply): Promise<void> => {
      for (const [way, child] of relays)
        (figures.get(way) as Figures).rssMiB[when] = (await usage(child)).rss / 2 ** 20;
    };
    await weigh('start');
    for (const reply of ['small', 'large'] as const) {
      await latencies(sessions, figures, reply, Number(values.calls) / (reply === 'small' ? 1 : 4));
      await throughput(sessions, relays, figures, reply, Number(values.seconds));
      await weigh(reply);
    }
    for (const session of sessions.values()) session.destroy();
    if (values.json) process.stdout.write(`${JSON.stringify(Object.fromEntries(figures), null, 2)}\n`);
    else print(figures);
  } finally {
    for (const child of children) {
      const exited = once(child, 'exit');
      if (child.connected) child.disconnect();
      else child.kill();
      await exited;
    }
    await rm(folder, { recursive: true, force: true });
  }
}

/** As it would be installed: without the compiler that runs TypeScript, which takes 50 MiB of its own. */
async function bundle(folder: string): Promise<string> {
  const { build } = await import('esbuild');
  await build({
    entryPoints: [fileURLToPath(import.meta.url)],
    outdir: folder,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    platform: 'node',
    format: 'esm',
    external: ['esbuild'],
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
    logLevel: 'error',
  });
  return join(folder, 'relay-spike.mjs');
}

async function start(
  program: string,
  task: string,
  path: string,
  upstreamPath: string,
  execArgv: string[],
): Promise<ChildProcess> {
  const child = fork(program, [task, path, upstreamPath], { execArgv });
  child.on('exit', (code, signal) => {
    if (code !== 0) process.stderr.write(`${task} ended: ${code ?? signal}\n`);
  });
  await once(child, 'message');
  return child;
}

async function usage(child: ChildProcess): Promise<Usage> {
  child.send('usage');
  const [answer] = await once(child, 'message');
  return answer as Usage;
}

function client(path: string): ClientHttp2Session {
  const session = connectHttp2('http://localhost', { path, settings: { initialWindowSize: 1024 * 1024 } } as object);
  session.on('error', (error) => process.stderr.write(`${path}: ${error.message}\n`));
  session.on('connect', () => session.setLocalWindowSize(16 * 1024 * 1024));
  return session;
}

const REQUEST = message(8);
let deadline = 0;

function call(session: ClientHttp2Session, reply: Reply): Promise<void> {
  return new Promise((resolve, reject) => {
    deadline = (deadline + 1) % 1000;
    const stream = session.request({
      ':method': 'POST',
      ':path': PATHS[reply],
      'content-type': 'application/grpc',
      'user-agent': 'grpc-go/1.72.1',
      te: 'trailers',
      'grpc-timeout': `${119_000 + deadline}m`, // grpc-go sends what is left of the deadline: another text with each call
    });
    let bytes = 0;
    let status: unknown;
    stream.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    stream.on('trailers', (trailers) => {
      status = trailers['grpc-status'];
    });
    stream.on('error', reject);
    stream.on('close', () => {
      if (bytes === REPLY_BYTES[reply] + 5 && status === '0') resolve();
      else reject(new Error(`an answer of ${bytes} bytes with status ${String(status)}`));
    });
    stream.end(REQUEST);
  });
}

async function latencies(
  sessions: ReadonlyMap<Way, ClientHttp2Session>,
  figures: ReadonlyMap<Way, Figures>,
  reply: Reply,
  calls: number,
): Promise<void> {
  const taken = new Map([...sessions.keys()].map((way) => [way, [] as number[]]));
  const block = 20;
  for (let round = -10; round < calls / block; round += 1) {
    for (const [way, session] of sessions) {
      for (let i = 0; i < block; i += 1) {
        const begun = performance.now();
        await call(session, reply);
        if (round >= 0) taken.get(way)?.push(performance.now() - begun);
      }
    }
  }
  for (const [way, all] of taken) {
    all.sort((a, b) => a - b);
    const one = figures.get(way) as Figures;
    one.p50[reply] = all[Math.floor(all.length * 0.5)] ?? 0;
    one.p99[reply] = all[Math.floor(all.length * 0.99)] ?? 0;
  }
}

async function throughput(
  sessions: ReadonlyMap<Way, ClientHttp2Session>,
  relays: ReadonlyMap<Way, ChildProcess>,
  figures: ReadonlyMap<Way, Figures>,
  reply: Reply,
  seconds: number,
): Promise<void> {
  const slices = 4; // in turns, as the machine is not always equally fast
  const sums = new Map([...sessions.keys()].map((way) => [way, { calls: 0, ms: 0, micros: 0 }]));
  for (let slice = -1; slice < slices; slice += 1) {
    for (const [way, session] of sessions) {
      const child = relays.get(way);
      const before = child && (await usage(child));
      const begun = performance.now();
      const calls = await load(session, reply, slice < 0 ? 500 : (seconds * 1000) / slices);
      const ms = performance.now() - begun;
      const after = child && (await usage(child));
      if (slice < 0) continue;
      const sum = sums.get(way) ?? { calls: 0, ms: 0, micros: 0 };
      sum.calls += calls;
      sum.ms += ms;
      if (before !== undefined && after !== undefined) {
        sum.micros += after.user + after.system - before.user - before.system;
      }
    }
  }
  for (const [way, { calls, ms, micros }] of sums) {
    const one = figures.get(way) as Figures;
    one.callsPerSecond[reply] = (calls * 1000) / ms;
    one.cpuMicros[reply] = micros / calls;
  }
}

async function load(session: ClientHttp2Session, reply: Reply, ms: number): Promise<number> {
  const end = performance.now() + ms;
  let calls = 0;
  const worker = async (): Promise<void> => {
    while (performance.now() < end) {
      await call(session, reply);
      calls += 1;
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
  return calls;
}

function empty(): Figures {
  const none = (): Record<Reply, number> => ({ small: 0, large: 0 });
  return { p50: none(), p99: none(), callsPerSecond: none(), cpuMicros: none(), rssMiB: { start: 0, ...none() } };
}

function print(figures: ReadonlyMap<Way, Figures>): void {
  const direct = figures.get('direct') as Figures;
  for (const reply of ['small', 'large'] as const) {
    process.stdout.write(`\n${reply} reply (${REPLY_BYTES[reply]} bytes)\n`);
    const rows = [...figures].map(([way, one]) => ({
      way,
      'p50 ms': one.p50[reply].toFixed(3),
      'added p50': (one.p50[reply] - direct.p50[reply]).toFixed(3),
      'p99 ms': one.p99[reply].toFixed(3),
      'added p99': (one.p99[reply] - direct.p99[reply]).toFixed(3),
      'CPU µs/call': one.cpuMicros[reply].toFixed(1),
      'calls/s': Math.round(one.callsPerSecond[reply]),
      'of direct': `${((100 * one.callsPerSecond[reply]) / direct.callsPerSecond[reply]).toFixed(0)} %`,
      'RSS MiB': `${one.rssMiB.start.toFixed(0)} → ${one.rssMiB[reply].toFixed(0)}`,
    }));
    console.table(rows);
  }
}

// ---- last, when everything above is there

const [role, listen = '', upstream = ''] = process.argv.slice(2);
if (role === 'serve-upstream') serveUpstream(listen);
else if (role === 'serve-splice') serveSplice(listen, upstream);
else if (role === 'serve-relay') await serveWholeRelay(listen, upstream);
else if (role === 'serve-engine') await serveEngine(listen, upstream);
else await measure();
