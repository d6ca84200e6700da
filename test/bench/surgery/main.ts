/**
 * What surgery costs: for how long nobody serves during a swap, beside stopping one container and starting another through
 * CRI in the same pod; and what the relay adds to a call when containers of the node are slots.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable } from '../../../src/cli/output.ts';
import { BenchNode } from '../relay/node.ts';
import { type ChangeOver, changeOvers } from './change-over.ts';
import { type Latencies, withSlots } from './slots.ts';

const HELP = `Usage: node test/bench/surgery/main.ts [options]   (make bench-surgery)

  --swaps N       of each kind (30)
  --calls N       calls for each latency (2000)
  --only PART     swap or relay
  --json FILE     the figures (out/bench-surgery.json)`;

const { values: options } = parseArgs({
  options: {
    swaps: { type: 'string', default: '30' },
    calls: { type: 'string', default: '2000' },
    only: { type: 'string' },
    json: { type: 'string', default: 'out/bench-surgery.json' },
    help: { type: 'boolean', default: false },
  },
});
if (options.help) {
  console.log(HELP);
  process.exit(0);
}

const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
const wants = (part: string) => options.only === undefined || options.only === part;
const say = (text: string) => console.error(`${new Date().toISOString().slice(11, 19)}  ${text}`);

const machine = `${cpus().length} cores (${cpus()[0]?.model.trim()}), ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node ${process.version}`;
const results: { date: string; machine: string; swaps?: ChangeOver[]; relay?: Latencies[] } = {
  date: new Date().toISOString().slice(0, 10),
  machine,
};
if (wants('swap')) {
  say(`${options.swaps} swaps of each kind`);
  results.swaps = await changeOvers(Number(options.swaps), stop.signal);
}
if (wants('relay')) {
  const folder = await mkdtemp(join(tmpdir(), 'gantry-bench-'));
  try {
    await using node = await BenchNode.up();
    say('110 pods, 300 containers');
    await node.populate(110, 300, stop.signal);
    say('latencies with 0, 1 and 100 slots');
    results.relay = await withSlots(node, folder, Number(options.calls), stop.signal);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const ms = (value: number) => value.toFixed(value < 10 ? 3 : 1);
console.log(`\n${results.date}, ${machine}`);
if (results.swaps !== undefined) {
  const [base] = results.swaps;
  const rows = results.swaps.map(({ name, p50Ms, p99Ms }) => [
    name,
    ms(p50Ms),
    ms(p99Ms),
    (p50Ms / (base?.p50Ms ?? 1)).toFixed(2),
  ]);
  console.log(`\nNobody serves for so long\n${formatTable([['', 'p50 ms', 'p99 ms', 'ratio'], ...rows])}`);
}
for (const { call, ways } of results.relay ?? []) {
  const direct = ways.direct?.p50Ms ?? 0;
  const rows = Object.entries(ways).map(([name, { p50Ms, p99Ms }]) => [
    name,
    ms(p50Ms),
    `+${ms(p50Ms - direct)}`,
    ms(p99Ms),
  ]);
  console.log(`\n${call}\n${formatTable([['', 'p50 ms', 'added', 'p99 ms'], ...rows])}`);
}
await mkdir(dirname(options.json), { recursive: true });
await writeFile(options.json, `${JSON.stringify(results, null, 2)}\n`);
console.log(`\nwritten to ${options.json}`);
