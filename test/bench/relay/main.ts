/**
 * What the relay costs: calls straight to a real containerd, through a plain splice of the two sockets, through streams piped
 * by node:http2, and through `gantry proxy`, all in one run and in turns.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { ContainerStatusRequest } from '../../../src/gen/cri.ts';
import { Cri } from '../../../src/runtime/cri.ts';
import { buffered, LargeRuntime } from './buffer.ts';
import { request } from './client.ts';
import { atStart, growth } from './growth.ts';
import { latencies } from './latency.ts';
import { BenchNode } from './node.ts';
import { relist } from './relist.ts';
import { emptyResults, formatResults, type Results } from './report.ts';
import { throughput } from './throughput.ts';
import { Ways } from './ways.ts';

const HELP = `Usage: node test/bench/relay/main.ts [options]   (make bench-relay)

  --pods N        pods on the node (110)
  --containers N  containers on the node (300)
  --calls N       calls per way for each latency (3000)
  --seconds N     per way for each throughput, and of relisting (5, 30)
  --million N     calls through one relay, to see whether its memory grows (1000000)
  --only PART     latency, throughput, relist, growth or buffer
  --json FILE     the figures (out/bench-relay.json)`;

const { values: options } = parseArgs({
  options: {
    pods: { type: 'string', default: '110' },
    containers: { type: 'string', default: '300' },
    calls: { type: 'string', default: '3000' },
    seconds: { type: 'string' },
    million: { type: 'string', default: '1000000' },
    only: { type: 'string' },
    json: { type: 'string', default: 'out/bench-relay.json' },
    help: { type: 'boolean', default: false },
  },
});

if (options.help) console.log(HELP);
else await main();

async function main(): Promise<void> {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stop.abort());
  const { signal } = stop;
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), 'gantry-bench-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  try {
    const results = await measure(folder, stack, signal);
    console.log(`\n${formatResults(results)}\n`);
    await mkdir(dirname(options.json), { recursive: true });
    await writeFile(options.json, `${JSON.stringify(results, null, 2)}\n`);
    console.log(`written to ${options.json}`);
  } catch (error) {
    if (!signal.aborted) throw error;
    console.error('ended early; nothing is left behind');
    process.exitCode = 130;
  }
}

async function measure(folder: string, stack: AsyncDisposableStack, signal: AbortSignal): Promise<Results> {
  const wants = (part: string): boolean => options.only === undefined || options.only === part;
  say('a node with containerd');
  const node = stack.use(await BenchNode.up());
  signal.throwIfAborted();
  const ways = stack.use(new Ways(folder));
  const all = await ways.startAll(node.runtimeSocket);
  using cri = new Cri(node.runtimeSocket);
  const { runtimeName, runtimeVersion } = await cri.version(signal);
  const results = emptyResults(`${runtimeName} ${runtimeVersion}`);
  results.startMiB = await atStart(all);
  const calls = Number(options.calls);
  const latency = async (one: ReturnType<typeof request>, share = 1) => {
    say(`latency of ${one.name}`);
    const { bytes, latencies: found } = await latencies(all, one, calls * share, signal);
    results.latency[one.name] = { bytes, ways: found };
  };
  const version = request('Version');
  const list = request('ListContainers', undefined, `ListContainers of ${options.containers}`);
  if (wants('latency')) {
    await latency(version);
    await latency(request('ListContainers', undefined, 'ListContainers of 0'));
  }
  if (wants('latency') || wants('throughput') || wants('relist')) {
    say(`${options.pods} pods, ${options.containers} containers`);
    await node.populate(Number(options.pods), Number(options.containers), signal);
  }
  if (wants('latency')) {
    const status = ContainerStatusRequest.encode({ containerId: node.containers[0] ?? '', verbose: false }).finish();
    await latency(request('ContainerStatus', status));
    await latency(list, 1 / 3);
  }
  if (wants('throughput')) {
    for (const one of [version, list]) {
      say(`throughput of ${one.name}`);
      results.throughput[one.name] = await throughput(all, one, Number(options.seconds ?? 5), signal);
    }
  }
  if (wants('relist')) {
    const seconds = Number(options.seconds ?? 30);
    for (const pods of [1, node.sandboxes.length]) {
      say(`relisting for ${seconds} s, with the status of ${pods}`);
      results.relistCpuPercent[pods] = await relist(all, node.sandboxes.slice(0, pods), seconds, signal);
    }
  }
  if (wants('growth')) {
    const fresh = await ways.start('relay', node.runtimeSocket, 'growth');
    const million = Number(options.million);
    results.growth = await growth(fresh, version, million, signal, (done) => say(`${done} of ${million} calls`));
  }
  if (wants('buffer')) {
    say('large answers');
    const large = stack.use(await LargeRuntime.listen(join(folder, 'large.sock')));
    for (const name of ['splice', 'pipe', 'relay'] as const) {
      const way = await ways.start(name, large.path, `${name}-large`);
      results.buffered[name] = await buffered(way, large, signal);
    }
  }
  return results;
}

function say(what: string): void {
  process.stderr.write(`${new Date().toTimeString().slice(0, 8)}  ${what}\n`);
}
