/**
 * What a checkpoint costs: a Redis of some size is dumped in turns by `runc checkpoint` into memory, by Gantry into a
 * folder and an archive, by containerd's own CheckpointContainer and by Podman; and restored from these.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus, release, totalmem } from 'node:os';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable } from '../../../src/cli/output.ts';
import { CheckpointContainerRequest, RuntimeServiceService } from '../../../src/gen/cri.ts';
import type { Result } from '../../../src/gen/gantry/v1/agent.ts';
import { Cri } from '../../../src/runtime/cri.ts';
import { connectSocket, unary } from '../../../src/runtime/grpc.ts';
import { labDown, labExec, labUp } from '../../lab.ts';
import { runPod } from '../../pods.ts';
import { nodeNamed } from '../../scenario.ts';
import { Podman } from './podman.ts';

const HELP = `Usage: node test/bench/checkpoint/main.ts [options]   (make bench-checkpoint)

  --sizes LIST    of the Redis, in MiB (64,512,2048)
  --rounds N      of each way (5)
  --compress LIST of the archives: none, gzip, zstd (none)
  --podman        Podman, too: it is installed into the lab's node, which needs the internet and a minute
  --json FILE     the figures (out/bench-checkpoint.json)`;

const { values: options } = parseArgs({
  options: {
    sizes: { type: 'string', default: '64,512,2048' },
    rounds: { type: 'string', default: '5' },
    compress: { type: 'string', default: 'none' },
    podman: { type: 'boolean', default: false },
    json: { type: 'string', default: 'out/bench-checkpoint.json' },
    help: { type: 'boolean', default: false },
  },
});
if (options.help) {
  console.log(HELP);
  process.exit(0);
}

const NAME = 't-bench-checkpoint';
/** In memory, where runc's images go, too. */
const FOLDER = '/dev/shm/bench';
/** Of the node. */
const AGENT = '/proc/$(cat /run/lab/agent.pid)';
const PLAIN = '--file-locks --tcp-established --manage-cgroups-mode ignore --leave-running';

/** One way of doing it, in milliseconds and bytes. */
interface Figures {
  readonly way: string;
  readonly ms: number[];
  /** For which the container stood still, where it is told. */
  readonly frozenMs: number[];
  /** Resident memory of the agent at its highest; none where it has no part in it. */
  readonly peakBytes: number[];
  bytes: number;
}

const lab = await labUp({ name: NAME, nodes: 1 });
const results: { date: string; machine: string; sizes: { mebibytes: number; dump: Figures[]; restore: Figures[] }[] } =
  {
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpus().length} cores (${cpus()[0]?.model.trim()}), ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node ${process.version}`,
    sizes: [],
  };
try {
  const podman = options.podman ? await Podman.install(lab, nodeNamed(lab, 'a')) : undefined;
  for (const size of options.sizes.split(',').map(Number)) results.sizes.push(await measure(size, podman));
} finally {
  await labDown(NAME);
}

async function measure(mebibytes: number, podman: Podman | undefined) {
  const node = nodeNamed(lab, 'a');
  const shell = async (script: string) =>
    (await labExec(NAME, 'a', ['sh', '-c', script], { timeoutMs: 300_000 })).stdout;
  const command = ['redis-server', '--save', '', '--enable-debug-command', 'yes'];
  const pod = await runPod(node.runtimeSocket, node.pid, { name: 'bench', image: lab.images.redis, command });
  using cri = new Cri(node.runtimeSocket);
  const { pid } = await cri.describe(pod.container);
  const key = 16 * 1024;
  await shell(`nsenter -t ${pid} -n redis-cli debug populate ${(mebibytes * 1024 * 1024) / key} k ${key}`);
  await podman?.start((mebibytes * 1024 * 1024) / key, key);
  const figures = (way: string): Figures => ({ way, ms: [], frozenMs: [], peakBytes: [], bytes: 0 });
  const timed = async (into: Figures, script: string, output = FOLDER): Promise<string> => {
    await shell(`rm -rf ${FOLDER}; mkdir -p ${FOLDER}`);
    const said = await shell(`a=$(date +%s%N); ${script}; b=$(date +%s%N); echo; echo $(((b - a) / 1000))`);
    const lines = said.trim().split('\n');
    into.ms.push(Number(lines.pop()) / 1000);
    into.bytes = Number((await shell(`du -sb ${output}`)).split('\t')[0]);
    return lines.join('\n');
  };
  /** proc(5): the highest is counted from here on, and read. */
  const watched = async <T>(into: Figures, work: () => Promise<T>): Promise<T> => {
    await shell(`echo 5 >${AGENT}/clear_refs`);
    const result = await work();
    into.peakBytes.push(Number((await shell(`grep VmHWM ${AGENT}/status`)).split(/\s+/)[1]) * 1024);
    return result;
  };
  const raw = figures('runc checkpoint');
  const folder = figures('gantry --output');
  const archives = options.compress.split(',').map((compression) => {
    const name = compression === 'none' ? '' : `, ${compression}`;
    const [to, from] = [figures(`gantry --archive${name}`), figures(`gantry restore of an archive${name}`)];
    return { to, from, how: `--archive ${FOLDER}/a.tar --compress ${compression}` };
  });
  const containerd = figures('containerd CheckpointContainer');
  const fromFolder = figures('gantry restore of a folder');
  const runc = figures('of it runc restore, the folder in memory');
  const byPodman = figures('podman container checkpoint --export');
  const fromPodman = figures('podman container restore --import');
  const save = `gantry checkpoint ${pod.container} --leave-running --tcp established -o json 2>/dev/null`;
  const connection = connectSocket(node.runtimeSocket);
  for (let round = 0; round < Number(options.rounds); round++) {
    console.error(`${mebibytes} MiB, round ${round + 1}`);
    await timed(
      raw,
      `runc --root /run/containerd/runc/k8s.io checkpoint --image-path ${FOLDER}/i ${PLAIN} ${pod.container}`,
    );
    if (podman !== undefined) {
      await timed(byPodman, `${podman.dump(`${FOLDER}/p.tar`)} >&2`);
      await shell(`mv ${FOLDER}/p.tar /dev/shm/p.tar`);
      await timed(fromPodman, `${podman.restore('/dev/shm/p.tar')} >&2`);
      await shell('rm /dev/shm/p.tar');
      fromPodman.bytes = 0;
      await podman.removeClone();
    }
    const request = CheckpointContainerRequest.fromPartial({ containerId: pod.container, location: `${FOLDER}/c.tar` });
    await shell(`rm -rf ${FOLDER}; mkdir -p ${FOLDER}`);
    const began = performance.now();
    await unary(connection, RuntimeServiceService.checkpointContainer, request, { timeoutMs: 300_000 });
    containerd.ms.push(performance.now() - began);
    containerd.bytes = Number((await shell(`du -sb ${FOLDER}`)).split('\t')[0]);
    for (const { to: into, from, how } of [
      { to: folder, from: fromFolder, how: `--output ${FOLDER}/d` },
      ...archives,
    ]) {
      const { phases } = JSON.parse(await watched(into, () => timed(into, `${save} ${how}`))) as Result;
      into.frozenMs.push(span(phases, ['freeze', 'dump', 'save files']));
      const again = `gantry restore ${how.split(' ')[1]} --new-sandbox clone -o json 2>/dev/null`;
      const said = await watched(from, () =>
        shell(`a=$(date +%s%N); ${again}; b=$(date +%s%N); echo; echo $(((b - a) / 1000))`),
      );
      const lines = said.trim().split('\n');
      from.ms.push(Number(lines.pop()) / 1000);
      const result = JSON.parse(lines.join('\n')) as Result;
      if (into === folder) runc.ms.push(span(result.phases, ['restore']));
      await cri.removeSandbox(result.sandboxId);
    }
  }
  connection.close();
  await cri.removeSandbox(pod.sandbox);
  await podman?.stop();
  const others = podman === undefined ? { dump: [], restore: [] } : { dump: [byPodman], restore: [fromPodman] };
  return {
    mebibytes,
    dump: [raw, folder, ...archives.map(({ to }) => to), containerd, ...others.dump],
    restore: [runc, fromFolder, ...archives.map(({ from }) => from), ...others.restore],
  };
}

function span(phases: Result['phases'], names: readonly string[]): number {
  return phases.filter(({ name }) => names.includes(name)).reduce((sum, { durationMs }) => sum + durationMs, 0);
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

console.log(`\n${results.date}, ${results.machine}`);
const ms = (value: number) => (Number.isNaN(value) ? '-' : value.toFixed(0));
const mib = (bytes: number) => (bytes > 0 ? `${(bytes / 2 ** 20).toFixed(0)} MiB` : '-');
for (const { mebibytes, dump, restore } of results.sizes) {
  for (const [what, ways] of Object.entries({ Dump: dump, Restore: restore })) {
    const base = median(ways[0]?.ms ?? []);
    const rows = ways.map((one) => [
      one.way,
      ms(median(one.ms)),
      ms(Math.max(...one.ms)),
      (median(one.ms) / base).toFixed(2),
      ms(median(one.frozenMs)),
      mib(one.bytes),
      mib(Math.max(0, ...one.peakBytes)),
    ]);
    const head = [`${what}, ${mebibytes} MiB`, 'median ms', 'most ms', 'ratio', 'frozen ms', 'bytes', "agent's peak"];
    console.log(`\n${formatTable([head, ...rows])}`);
  }
}
await mkdir(dirname(options.json), { recursive: true });
await writeFile(options.json, `${JSON.stringify(results, null, 2)}\n`);
console.log(`\nwritten to ${options.json}`);
