import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { ServerHttp2Stream } from 'node:http2';
import { stripVTControlCharacters } from 'node:util';
import { expect, onTestFinished, test, vi } from 'vitest';
import { formatCall } from '../cli/follow-trace.ts';
import { RelayService, TraceEvent } from '../gen/gantry/v1/relay.ts';
import { Recorder } from './recorder.ts';
import { Bench, message } from './relay.fixture.ts';
import { Trace } from './trace.ts';

const GRPC = { ':status': 200, 'content-type': 'application/grpc' };
const COMMAND = new URL('../cli/main.ts', import.meta.url).pathname;
const call = (method: string) => `/runtime.v1.RuntimeService/${method}`;

function succeed(stream: ServerHttp2Stream): void {
  stream.respond(GRPC, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  stream.end(message('answer'));
  stream.resume();
}

async function tracedRelay(bench: Bench, trace = new Trace()) {
  await bench.rawServer(succeed);
  return bench.relay({ own: new Map(trace.methods()), observer: new Recorder([trace]) });
}

/** Follows, and has begun to when this resolves. */
async function follow(bench: Bench, methods: string[] = []) {
  const { path, requestSerialize, responseDeserialize } = RelayService.trace;
  const stream = bench.grpcClient().makeServerStreamRequest(path, requestSerialize, responseDeserialize, { methods });
  const events: TraceEvent[] = [];
  stream.on('data', (event: TraceEvent) => events.push(event));
  const failed = once(stream, 'error');
  failed.catch(() => undefined);
  await once(stream, 'metadata');
  return { stream, events, failed };
}

test('a follower sees each call with its method, status, times and bytes', async () => {
  await using bench = await Bench.make();
  await tracedRelay(bench);
  const { stream, events } = await follow(bench);
  await bench.rawClient().call(call('StartContainer'), [], message('0123456789'));
  await vi.waitFor(() => expect(events).toHaveLength(1));
  expect(events[0]?.call).toMatchObject({
    method: 'StartContainer',
    mode: 'piped',
    code: 0,
    bytesUp: 15n,
    bytesDown: 11n,
  });
  const { startUnixMs = 0, durationMs = 0, ownMs = 0, upstreamMs = 0 } = events[0]?.call ?? {};
  expect(Math.abs(startUnixMs - Date.now())).toBeLessThan(60_000);
  expect(ownMs + upstreamMs).toBeCloseTo(durationMs);
  stream.cancel();
});

test('only the methods asked for, with * for any text', async () => {
  await using bench = await Bench.make();
  await tracedRelay(bench);
  const { stream, events } = await follow(bench, ['list*', 'Version']);
  const client = bench.rawClient();
  for (const method of ['ListContainers', 'ContainerStatus', 'Version', 'ListPodSandbox', 'XListY']) {
    await client.call(call(method));
  }
  await vi.waitFor(() => expect(events).toHaveLength(3));
  expect(events.map((event) => event.call?.method)).toEqual(['ListContainers', 'Version', 'ListPodSandbox']);
  stream.cancel();
});

test('a follower that does not read loses calls, is told how many, and holds nothing up', async () => {
  const trace = new Trace(10);
  const [[, method] = []] = trace.methods();
  const stop = new AbortController();
  const follower = method?.(new Uint8Array(), stop.signal)[Symbol.asyncIterator]();
  const recorder = new Recorder([trace]);
  const next = follower?.next(); // begins to follow, and takes the first call
  await Promise.resolve();
  for (let i = 0; i < 1000; i += 1) recorder.callStarted(call('Version'), 'piped').ended(0);
  const seen = [await next];
  for (let i = 1; i < 11; i += 1) seen.push(await follower?.next());
  const events = seen.map((result) => TraceEvent.decode(result?.value));
  expect(events.filter((event) => event.call !== undefined)).toHaveLength(10);
  expect(events.at(-1)?.dropped).toBe(990n);
  stop.abort();
  expect((await follower?.next())?.done).toBe(true);
});

test('nothing is counted when nobody follows, nor after the last one has gone', async () => {
  await using bench = await Bench.make();
  const trace = new Trace();
  await tracedRelay(bench, trace);
  expect(trace.wantsBytes).toBe(false);
  const { stream } = await follow(bench);
  expect(trace.wantsBytes).toBe(true);
  stream.cancel();
  await vi.waitFor(() => expect(trace.wantsBytes).toBe(false));
});

test('there may be sixteen followers, and the next is refused', async () => {
  await using bench = await Bench.make();
  await tracedRelay(bench);
  const followers = await Promise.all(Array.from({ length: 16 }, () => follow(bench)));
  const { failed } = await follow(bench);
  expect((await failed)[0]).toMatchObject({ code: 10, details: expect.stringContaining('16') });
  for (const { stream } of followers) stream.cancel();
});

test('the end of the relay ends it', async () => {
  await using bench = await Bench.make();
  const relay = await tracedRelay(bench);
  const { failed } = await follow(bench);
  await relay.close();
  expect((await failed)[0]).toMatchObject({ code: 14, details: expect.stringContaining('stopping') });
});

test.each([
  ['table', /^\d\d:\d\d:\d\d\.\d{3} StartContainer +OK +[\d.]+ ms +[\d.]+ ms +[\d.]+ ms +5 B +11 B$/],
  ['json', /^\{"time":"[^"]+Z","method":"StartContainer","mode":"piped","code":"OK",.*"bytesDown":11\}$/],
])(
  'the command prints a line for each call (%s), and Ctrl-C ends it well',
  async (format, line) => {
    await using bench = await Bench.make();
    await tracedRelay(bench);
    const args = [COMMAND, 'proxy', 'trace', '--socket', bench.listen, '-o', format, '--method', 'Start*'];
    const trace = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    onTestFinished(() => void trace.kill('SIGKILL'));
    const exited = once(trace, 'exit');
    let output = '';
    trace.stdout.on('data', (chunk) => {
      output += chunk;
    });
    const client = bench.rawClient();
    await vi.waitFor(
      async () => {
        await client.call(call('StartContainer'));
        expect(output).toContain('StartContainer');
      },
      { timeout: 15_000 },
    );
    const lines = stripVTControlCharacters(output).split('\n');
    expect(lines[format === 'table' ? 1 : 0]).toMatch(line);
    trace.kill('SIGINT');
    expect(await exited).toEqual([0, null]);
  },
  30_000,
);

test('columns stay in place, and what is unusual stands at the end', () => {
  const call = {
    startUnixMs: new Date(2026, 10, 23, 9, 8, 7, 6).getTime(),
    method: 'PullImage',
    mode: 'intercepted',
    code: 5,
    message: 'no such image',
    durationMs: 12_345,
    ownMs: 0.123,
    upstreamMs: 12_344.877,
    bytesUp: 999n,
    bytesDown: 1_500_000n,
    ...{ namespace: '', pod: '', container: '', sandboxId: '', containerId: '' },
  };
  const columns =
    '09:08:07.006 PullImage                  NOT_FOUND            12.3 s   0.12 ms    12.3 s     999 B    1.5 MB';
  expect(formatCall(call)).toBe(`${columns}  (intercepted)  no such image`);
  const ids = { sandboxId: 'a'.repeat(64), containerId: 'b'.repeat(64) };
  const plain = { ...call, mode: 'piped', message: '', ...ids };
  expect(formatCall({ ...plain, namespace: 'default', pod: 'redis', container: 'main' })).toBe(
    `${columns}  default/redis/main`,
  );
  expect(formatCall(plain)).toBe(`${columns}  aaaaaaaaaaaaa/bbbbbbbbbbbbb`);
});
