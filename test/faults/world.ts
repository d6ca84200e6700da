import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { access, readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { expect } from 'vitest';
import { processesOf } from '../../hack/nodes/cgroups.ts';
import { labThatIsUp, nodeOf } from '../../hack/nodes/registry.ts';
import { serviceProcess } from '../../hack/nodes/services.ts';
import { REASONS, type Reason } from '../../src/errors.ts';
import {
  ContainerConfig,
  ContainerState,
  NamespaceMode,
  PodSandboxConfig,
  PodSandboxState,
} from '../../src/gen/cri.ts';
import { isFrozen, parseFreezer } from '../../src/runtime/cgroup.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { entriesUnderWay } from '../e2e/leftovers.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment, type Service } from '../lab.ts';
import { type Pod, runPod } from '../pods.ts';
import { Counter, fill, RedisConnection } from '../redis.ts';
import { runningOn } from '../scenario.ts';

const GANTRY = join(import.meta.dirname, '../../bin/gantry');
/** Nothing that a test waits for takes longer, unless it says so. */
const LIMIT_MS = 40_000;

/** What a refused or failed command said with `-o json`. */
export interface Failure {
  reason: Reason;
  message: string;
  hint: string;
  exitCode: number;
}

export interface Ended {
  exitCode: number | undefined;
  stdout: string;
  stderr: string;
  failure: Failure | undefined;
}

/** One `gantry` command under way, on this machine but with a node's agent. */
export class Command {
  readonly ended: Promise<Ended>;
  readonly lines: string[] = [];
  readonly #process: ReturnType<typeof start>;

  constructor(args: readonly string[]) {
    this.#process = start(args);
    let rest = '';
    this.#process.stderr?.on('data', (chunk: Buffer) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      this.lines.push(...lines);
      this.#process.nodeChildProcess.emit('lines');
    });
    this.ended = this.#process.then(({ exitCode, stdout, stderr }) => ({
      exitCode,
      stdout,
      stderr,
      failure: parseFailure(stderr),
    }));
  }

  /** Resolves as soon as a phase has ended ("dump"): the next one has just begun. Throws when the command ended first. */
  async reached(phase: string): Promise<void> {
    const isThere = () => this.lines.some((line) => line.startsWith(`${phase} `) && line.endsWith(' ms'));
    const over = new AbortController();
    const ended = this.ended.then(() => over.abort());
    while (!isThere() && !over.signal.aborted) {
      await Promise.race([once(this.#process.nodeChildProcess, 'lines', { signal: over.signal }), ended]).catch(
        () => undefined,
      );
    }
    if (!isThere()) throw new Error(`the command ended before "${phase}":\n${(await this.ended).stderr}`);
  }

  signal(name: 'SIGINT' | 'SIGKILL'): void {
    this.#process.kill(name);
  }
}

function start(args: readonly string[]) {
  return execa(GANTRY, args, { stdin: 'ignore', reject: false, timeout: 110_000, killSignal: 'SIGKILL' });
}

/** Progress lines come before the error, which is the JSON at the end. */
function parseFailure(stderr: string): Failure | undefined {
  const at = stderr.search(/^\{$/m);
  if (at < 0) return undefined;
  return (JSON.parse(stderr.slice(at)) as { error: Failure }).error;
}

/** A Redis with one connection on which a counter runs, without a pause, for as long as the test lasts. */
export class Served {
  readonly pod: Pod;
  readonly counter: Counter;
  readonly #world: World;

  constructor(world: World, pod: Pod, counter: Counter) {
    this.#world = world;
    this.pod = pod;
    this.counter = counter;
  }

  /** Where the CRI says that it runs. */
  places(): Promise<string[]> {
    return runningOn(this.#world, this.pod.name);
  }

  /** Waits until requests that are sent from now on are answered. */
  async answers(limitMs = LIMIT_MS): Promise<void> {
    const before = this.counter.answeredAt.length;
    try {
      await until('the connection answers', () => this.counter.answeredAt.length > before + 50, limitMs);
    } catch (error) {
      throw new Error(JSON.stringify(await this.counter.stop(0)), { cause: error });
    }
  }

  /** Waits until the CRI says that it runs on these nodes and no others. */
  async arrives(...nodes: string[]): Promise<void> {
    await until(`${this.pod.name} runs on ${nodes}`, async () => (await this.places()).join() === nodes.join());
  }

  /** Runs on these nodes (one, in every sane world), answers, and the connection has lost and repeated nothing. */
  async expectAlive(...nodes: string[]): Promise<void> {
    await this.answers();
    expect(await this.places()).toEqual(nodes);
    const { lost, repeated, reconnects, requests } = await this.counter.stop(LIMIT_MS);
    expect({ lost, repeated, reconnects }).toEqual({ lost: 0, repeated: 0, reconnects: 0 });
    expect(requests).toBeGreaterThan(50);
  }
}

export interface ContainerPlan {
  name: string;
  image?: 'redis' | 'busybox';
  handler?: string;
  sandbox?: Parameters<typeof PodSandboxConfig.fromPartial>[0];
  container?: Parameters<typeof ContainerConfig.fromPartial>[0];
}

/** Two nodes of a lab of its own, what was put on them on purpose, and ways to hurt them. */
export class World {
  readonly name: string;
  readonly a: NodeEnvironment;
  readonly b: NodeEnvironment;
  readonly images: LabEnvironment['images'];
  readonly suite: string;
  /** Sandboxes that may be there although nothing runs in them. */
  readonly known = new Set<string>();
  #count = 0;

  private constructor(lab: LabEnvironment) {
    this.name = lab.name;
    [this.a, this.b] = lab.nodes as [NodeEnvironment, NodeEnvironment];
    this.images = lab.images;
    this.suite = lab.suite;
  }

  static async up(name: string): Promise<World> {
    return new World(await labUp({ name }));
  }

  down(): Promise<void> {
    return labDown(this.name);
  }

  get nodes(): NodeEnvironment[] {
    return [this.a, this.b];
  }

  /** A node's file, from this machine. */
  path(node: NodeEnvironment, path: string): string {
    return `/proc/${node.pid}/root${path}`;
  }

  exec(node: NodeEnvironment, ...args: string[]) {
    return labExec(this.name, node.name, args, { timeoutMs: LIMIT_MS });
  }

  shell(node: NodeEnvironment, script: string) {
    return this.exec(node, 'sh', '-ec', script);
  }

  /** Starts a command; errors come as JSON. */
  begin(node: NodeEnvironment, ...args: string[]): Command {
    // The counter never pauses: a migration would wait for a quiet moment for as long as it may.
    const isImpatient = args[0] === 'migrate' && !args.includes('--quiesce') && args.length > 2;
    const own = isImpatient ? ['--quiesce', '0.05'] : [];
    return new Command([...args, ...own, '--agent', node.agentSocket, '-o', 'json']);
  }

  gantry(node: NodeEnvironment, ...args: string[]): Promise<Ended> {
    return this.begin(node, ...args).ended;
  }

  /** A pod of one Redis on `a` with random data, and a counter on an open connection. */
  async serveRedis(options: { mebibytes?: number; labels?: Record<string, string> } = {}): Promise<Served> {
    const { mebibytes = 0, labels = {} } = options;
    const name = `redis-${++this.#count}`;
    const pod = await runPod(this.a.runtimeSocket, this.a.pid, { name, image: this.images.redis, labels });
    if (mebibytes > 0) {
      using redis = await RedisConnection.open(pod.address);
      await fill(redis, mebibytes);
    }
    return this.connect(pod);
  }

  /** The counter on a new connection to a pod that serves already. */
  async connect(pod: Pod): Promise<Served> {
    return new Served(this, pod, await Counter.start(pod.address));
  }

  /** A pod of one container, with whatever a plan adds to both configurations. */
  async runContainer(node: NodeEnvironment, plan: ContainerPlan): Promise<{ sandbox: string; container: string }> {
    const { name, image = 'busybox', handler = '', sandbox = {}, container = {} } = plan;
    using cri = new Cri(node.runtimeSocket);
    const own = { linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } } };
    const sandboxConfig = PodSandboxConfig.fromPartial({
      metadata: { name, namespace: 'default', uid: randomUUID(), attempt: 0 },
      hostname: name,
      logDirectory: `/var/log/pods/${name}`,
      ...own,
      ...sandbox,
    });
    const sandboxId = await cri.runSandbox(sandboxConfig, handler);
    this.known.add(sandboxId);
    const command = image === 'busybox' ? ['sh', '-c', 'while :; do sleep 1; done'] : [];
    const config = ContainerConfig.fromPartial({
      metadata: { name, attempt: 0 },
      image: { image: this.images[image] },
      command,
      logPath: `${name}/0.log`,
      ...own,
      ...container,
    });
    const containerId = await cri.createContainer(sandboxId, config, sandboxConfig);
    await cri.startContainer(containerId);
    return { sandbox: sandboxId, container: containerId };
  }

  async removePods(): Promise<void> {
    for (const node of this.nodes) {
      using cri = new Cri(node.runtimeSocket);
      for (const { id } of await cri.listSandboxes()) await cri.removeSandbox(id);
    }
  }

  /** PID of a service, as this machine sees it. */
  async pidOf(node: NodeEnvironment, service: Service): Promise<number> {
    const lab = await labThatIsUp(this.name);
    for (const until = performance.now() + LIMIT_MS; performance.now() < until; await sleep(10)) {
      const found = await serviceProcess(lab, nodeOf(lab, node.name), service);
      if (found !== undefined) return found.hostPid;
    }
    throw new Error(`${service} does not run on ${node.name}`);
  }

  /** Waits until a service takes calls: after a crash, until it has recovered. */
  async ready(node: NodeEnvironment, service: Service): Promise<void> {
    if (service === 'agent') {
      // The node's own address is no peer's: the refusal comes from a listening agent, quickly.
      await until(`the agent of ${node.name} answers`, async () => {
        const { failure } = await this.gantry(node, 'migrate', 'nothing-of-this-name', '--to', 'nowhere');
        return failure?.reason === 'NOT_FOUND';
      });
      return;
    }
    await until(`containerd of ${node.name} answers`, async () => {
      using cri = new Cri(node.runtimeSocket);
      return await cri.version().then(
        () => true,
        () => false,
      );
    });
  }

  /** Ends a service with SIGKILL and waits until its supervisor has it back and it takes calls. */
  async restart(node: NodeEnvironment, service: Service): Promise<void> {
    process.kill(await this.pidOf(node, service), 'SIGKILL');
    await sleep(50);
    await this.ready(node, service);
  }

  /** Changes the configuration of a node's agent, which starts again, until disposed. */
  async configure(node: NodeEnvironment, change: object): Promise<AsyncDisposable> {
    const file = this.path(node, '/etc/gantry/agent.json');
    const before = await readFile(file, 'utf8');
    const write = async (text: string) => {
      await writeFile(file, text);
      await this.restart(node, 'agent');
    };
    await write(JSON.stringify({ ...(JSON.parse(before) as object), ...change }));
    return { [Symbol.asyncDispose]: () => write(before) };
  }

  /** Keeps a service from running until disposed. */
  async without(node: NodeEnvironment, service: Service): Promise<AsyncDisposable> {
    const pid = await this.pidOf(node, service);
    const supervisor = await parentOf(pid);
    process.kill(supervisor, 'SIGSTOP');
    process.kill(pid, 'SIGKILL');
    await until(`${service} has ended`, async () => (await stateOf(pid)) === 'Z');
    return {
      [Symbol.asyncDispose]: async () => {
        process.kill(supervisor, 'SIGCONT');
        await this.ready(node, service);
      },
    };
  }

  /** Stops a service's process until disposed: it neither answers nor closes anything. */
  async halted(node: NodeEnvironment, service: Service): Promise<Disposable & { kill(): void }> {
    const pid = await this.pidOf(node, service);
    process.kill(pid, 'SIGSTOP');
    let isOver = false;
    const end = (signal: NodeJS.Signals) => {
      if (!isOver) process.kill(pid, signal);
      isOver = true;
    };
    return { kill: () => end('SIGKILL'), [Symbol.dispose]: () => end('SIGCONT') };
  }

  /** Runs a script on a node now and another one when disposed. */
  async during(node: NodeEnvironment, now: string, afterwards: string): Promise<AsyncDisposable> {
    await this.shell(node, now);
    return { [Symbol.asyncDispose]: async () => void (await this.shell(node, afterwards)) };
  }

  /** A small filesystem in the place of a folder. */
  smallFolder(node: NodeEnvironment, folder: string, mebibytes: number): Promise<AsyncDisposable> {
    return this.during(
      node,
      `mkdir -p ${folder} && mount -t tmpfs -o size=${mebibytes}m,mode=700 small ${folder}`,
      `umount ${folder}`,
    );
  }

  withoutCriu(node: NodeEnvironment): Promise<AsyncDisposable> {
    return this.during(node, 'mount --bind /dev/null /usr/sbin/criu', 'umount /usr/sbin/criu');
  }

  /** Drops everything between the agents, on both nodes and in both directions, until disposed. */
  async cut(): Promise<AsyncDisposable> {
    const rules = 'tcp dport 7440 drop; tcp sport 7440 drop;';
    const chain = (hook: string) => `chain ${hook} { type filter hook ${hook} priority 0; ${rules} };`;
    const cuts = await Promise.all(
      this.nodes.map((node) =>
        this.during(
          node,
          `nft 'table inet t_cut { ${chain('input')} ${chain('output')} }'`,
          'nft delete table inet t_cut',
        ),
      ),
    );
    return {
      async [Symbol.asyncDispose]() {
        await Promise.all(cuts.map((each) => each[Symbol.asyncDispose]()));
      },
    };
  }

  /** After a crash: one live copy, somewhere, with its connection, and nothing else anywhere. Returns where. */
  async settled(served: Served): Promise<string> {
    for (const node of this.nodes)
      for (const service of ['containerd', 'agent'] as const) await this.ready(node, service);
    await this.expectNothingLeft();
    const places = await served.places();
    expect(places).toHaveLength(1);
    await served.expectAlive(...places);
    // Nothing woke up meanwhile.
    await this.expectNothingLeft(1000);
    return places.join();
  }

  /** Kills services at one moment of a migration from a to b: as soon as a phase is over, plus a delay. */
  killAfter(served: Served, phase: string, delayMs: number, ...services: (readonly ['a' | 'b', Service])[]) {
    return this.#signalAfter('SIGKILL', served, phase, delayMs, services);
  }

  /** Asks services to end, at one moment of a migration from a to b. */
  stopAfter(served: Served, phase: string, delayMs: number, ...services: (readonly ['a' | 'b', Service])[]) {
    return this.#signalAfter('SIGTERM', served, phase, delayMs, services);
  }

  async #signalAfter(
    signal: NodeJS.Signals,
    served: Served,
    phase: string,
    delayMs: number,
    services: (readonly ['a' | 'b', Service])[],
  ): Promise<Ended> {
    const pids = await Promise.all(services.map(([name, service]) => this.pidOf(this[name], service)));
    const command = this.begin(this.a, 'migrate', served.pod.container, '--to', 'b');
    await command.reached(phase);
    await sleep(delayMs);
    for (const pid of pids) process.kill(pid, signal);
    return command.ended;
  }

  /** Waits until neither node has anything that an operation made and that nobody needs any more. */
  async expectNothingLeft(limitMs = LIMIT_MS): Promise<void> {
    let left: string[] = [];
    const isClean = async () => {
      try {
        left = (await Promise.all(this.nodes.map((node) => this.#leftOn(node)))).flat();
      } catch (error) {
        // What was listed has gone before it was looked at, or containerd is just starting.
        left = [String(error)];
      }
      return left.length === 0;
    };
    await until('nothing is left behind', isClean, limitMs).catch(() => undefined);
    expect(left).toEqual([]);
  }

  async #leftOn(node: NodeEnvironment): Promise<string[]> {
    const left: string[] = [];
    for (const folder of ['images', 'tickets', 'spent'].map((name) => `/run/gantry/${name}`)) {
      for (const name of await namesIn(this.path(node, folder))) left.push(`${folder}/${name}`);
    }
    left.push(...(await entriesUnderWay(node)));

    using cri = new Cri(node.runtimeSocket);
    const [sandboxes, containers] = await Promise.all([cri.listSandboxes(), cri.listContainers()]);
    const running = containers.filter(({ state }) => state === ContainerState.CONTAINER_RUNNING);
    const ready = sandboxes.filter(({ state }) => state === PodSandboxState.SANDBOX_READY);
    for (const { id, metadata } of sandboxes) {
      const isNeeded = running.some(({ podSandboxId }) => podSandboxId === id) || this.known.has(id);
      if (!isNeeded) left.push(`sandbox ${metadata?.name} ${id}`);
    }
    for (const name of await namesIn(this.path(node, '/var/lib/gantry/moved'))) {
      if (!sandboxes.some(({ id }) => name.startsWith(id))) left.push(`moved/${name}`);
    }
    for (const { id, metadata, podSandboxId } of containers) {
      const isNeeded = running.some((each) => each.id === id) || this.known.has(podSandboxId);
      if (!isNeeded) left.push(`container ${metadata?.name} ${id}`);
    }
    for (const { id } of ready) {
      const { pid } = await cri.describeSandbox(id);
      const netns = `--net=${this.path(node, `/proc/${pid}/ns/net`)}`;
      const { stdout } = await execa('nsenter', [netns, 'nft', 'list', 'tables'], { timeout: LIMIT_MS });
      if (stdout !== '') left.push(`${stdout} in the network of ${id}`);
    }
    for (const { id } of running) {
      const { pid } = await cri.describe(id);
      const groups = await readFile(this.path(node, `/proc/${pid}/cgroup`), 'utf8');
      if (await isFrozen(parseFreezer(groups.trim().split('\n')))) left.push(`container ${id} is frozen`);
    }

    const ids = new Set(sandboxes.map(({ id }) => id));
    const live = new Set([...ids, ...running.map(({ id }) => id)]);
    for (const id of await namesIn(this.path(node, '/run/containerd/runc/k8s.io'))) {
      if (!live.has(id) && !id.startsWith('.')) left.push(`runc's state of ${id}`);
    }
    const networks = await namesIn(this.path(node, '/run/netns'));
    if (networks.length > sandboxes.length) left.push(`network namespaces: ${networks.join(', ')}`);
    const pool = this.path(node, '/var/lib/cni/networks/gantry');
    for (const address of (await namesIn(pool)).filter((name) => /^\d/.test(name))) {
      const [owner = ''] = (await readOrNothing(join(pool, address))).split(/\s/);
      if (!ids.has(owner) && !owner.startsWith('gantry-')) left.push(`address ${address} of ${owner}`);
    }
    left.push(...(await this.#straysOn(node, live)));
    return left.map((what) => `${node.name}: ${what}`);
  }

  /** Processes that belong neither to the node's services nor to a container that runs. */
  async #straysOn(node: NodeEnvironment, live: ReadonlySet<string>): Promise<string[]> {
    const strays: string[] = [];
    for (const pid of await processesOf(this.name, node.name)) {
      const args = (await readOrNothing(`/proc/${pid}/cmdline`)).split('\0').slice(0, -1);
      const [program = ''] = args;
      if (program === '' || (await stateOf(pid)) === 'Z') continue;
      const groups = await readOrNothing(`/proc/${pid}/cgroup`);
      if ([...live].some((id) => groups.includes(id))) continue;
      const isService =
        /^(containerd|.*\/containerd)$/.test(program) ||
        args.some((arg) => /(nodes\/init\.sh|dist\/gantry\.mjs)$/.test(arg)) ||
        (basename(program) === 'sleep' && args.length === 2);
      const isShim = program.includes('containerd-shim') && args.some((arg) => live.has(arg));
      if (!isService && !isShim) strays.push(`process ${args.join(' ').slice(0, 150)}`);
    }
    return strays;
  }
}

/** A phase that has ended, and milliseconds into the next. */
export type Moment = [phase: string, delayMs: number];

/** Each moment takes some seconds: `make test` takes the few that matter most, `make test-crashes` all of them. */
export function moments(all: Moment[], few: Moment[]): Moment[] {
  return process.env.GANTRY_ALL_MOMENTS === '1' ? all : few;
}

/** Moments at which nothing is committed yet. */
const BEFORE: Moment[] = [
  ['connect', 0],
  ['connect', 80],
  ['placeholder', 0],
  ['placeholder', 30],
  ['sync files', 0],
  ['quiesce', 0],
  ['freeze', 0],
  ['freeze', 50],
  ['dump', 0],
  ['dump', 80],
  ['send memory', 0],
  ['send memory', 60],
];
export const BEFORE_COMMIT = moments(BEFORE, [
  ['placeholder', 30],
  ['dump', 0],
  ['send memory', 60],
]);

/** A command ended with this reason and its own exit code, and its message says these things. */
export function expectReason(ended: Ended, reason: Reason, ...says: (string | RegExp)[]): void {
  expect(ended.failure, ended.stderr).toMatchObject({ reason, exitCode: REASONS[reason].exitCode });
  expect(ended.exitCode).toBe(REASONS[reason].exitCode);
  for (const what of says) expect(ended.failure?.message).toMatch(what);
  expect(ended.stdout).toBe('');
}

/** Polls until something is so. Throws, naming it, after the limit. */
export async function until(what: string, isSo: () => boolean | Promise<boolean>, limitMs = LIMIT_MS): Promise<void> {
  const limit = performance.now() + limitMs;
  while (!(await isSo())) {
    if (performance.now() > limit) throw new Error(`waited ${limitMs / 1000} s until ${what}`);
    await sleep(20);
  }
}

export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function parentOf(pid: number): Promise<number> {
  return Number(/^PPid:\s+(\d+)$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

async function stateOf(pid: number): Promise<string> {
  return /^State:\s+(\S)/m.exec(await readOrNothing(`/proc/${pid}/status`))?.[1] ?? 'Z';
}

function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch(() => []);
}

function readOrNothing(file: string): Promise<string> {
  return readFile(file, 'utf8').catch(() => '');
}
