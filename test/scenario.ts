import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ContainerState, type ExecSyncResponse, RuntimeServiceService as Runtime } from '../src/gen/cri.ts';
import type { Phase, Quiesced } from '../src/gen/gantry/v1/agent.ts';
import { Cri } from '../src/runtime/cri.ts';
import { connectSocket, unary } from '../src/runtime/grpc.ts';
import { type LabEnvironment, labExec, type NodeEnvironment } from './lab.ts';
import { type Pod, runPod } from './pods.ts';
import { Counter, type CounterReport, digest, fill, RedisConnection } from './redis.ts';

/*
 * What the demo shows and the end-to-end tests check: a Redis with data, a client of this machine that watches it over
 * one connection, and moves made by the real command inside the nodes.
 */

/** A frozen pod's client sends again ever more rarely: after two seconds the next try may be two seconds away. */
const ANSWER_LIMIT_MS = 30_000;

/** What `gantry migrate -o json` prints. */
export interface Migration {
  containerId: string;
  sandboxId: string;
  node: string;
  mode: string;
  phases: Omit<Phase, '_unknownFields'>[];
  bytesSent: number;
  addresses: string[];
  warnings: string[];
  frozenMs: number;
  quiesced?: Omit<Quiesced, '_unknownFields'>;
}

export interface Move {
  from: string;
  to: string;
  /** What it was before; what it became is in the migration. */
  containerId: string;
  sandboxId: string;
  migration: Migration;
  /** When the agent began it, on the clock of performance.now(): its phases count from here. */
  startedAt: number;
}

/** A time without an answer; `startMs` counts from the start of the move that it belongs to. */
export interface Gap {
  startMs: number;
  durationMs: number;
}

export interface Outcome extends CounterReport {
  digestBefore: string;
  digestAfter: string;
}

/** What a client of the CRI is told of a sandbox's addresses. @param socket the relay's, or the runtime's own */
export async function toldAddresses(socket: string, podSandboxId: string): Promise<string[]> {
  const client = connectSocket(socket);
  try {
    const { status } = await unary(
      client,
      Runtime.podSandboxStatus,
      { podSandboxId, verbose: false },
      { timeoutMs: 10_000 },
    );
    return [status?.network?.ip ?? '', ...(status?.network?.additionalIps ?? []).map(({ ip }) => ip)];
  } finally {
    client.close();
  }
}

export class RedisScenario {
  readonly lab: LabEnvironment;
  readonly pod: Pod;
  readonly moves: Move[] = [];
  #node: NodeEnvironment;
  #container: string;
  #sandbox: string;
  #digest = '';
  #counter: Counter | undefined;
  #connectedAt = 0;
  #stoppedAt: number | undefined;

  private constructor(lab: LabEnvironment, node: NodeEnvironment, pod: Pod) {
    this.lab = lab;
    this.pod = pod;
    this.#node = node;
    this.#container = pod.container;
    this.#sandbox = pod.sandbox;
  }

  /** Starts the pod on the lab's first node. */
  static async start(lab: LabEnvironment, name = 'redis'): Promise<RedisScenario> {
    const [node] = lab.nodes;
    if (node === undefined) throw new Error(`lab ${lab.name} has no node`);
    const pod = await runPod(node.runtimeSocket, node.pid, { name, image: lab.images.redis });
    return new RedisScenario(lab, node, pod);
  }

  /** Where the pod is now. */
  get node(): NodeEnvironment {
    return this.#node;
  }

  get container(): string {
    return this.#container;
  }

  get sandbox(): string {
    return this.#sandbox;
  }

  /** The client, from {@link connect} on. */
  get counter(): Counter {
    if (this.#counter === undefined) throw new Error('the client is not connected yet');
    return this.#counter;
  }

  /** Writes random values, and takes note of what they are. */
  async fill(mebibytes: number): Promise<void> {
    using redis = await RedisConnection.open(this.pod.address);
    await fill(redis, mebibytes);
    this.#digest = await digest(redis);
  }

  /** Starts the client. */
  async connect(): Promise<void> {
    this.#counter = await Counter.start(this.pod.address);
    this.#connectedAt = performance.now();
  }

  /** Moves the pod to another node of the lab; resolves when the client has an answer from there. */
  async move(to: string): Promise<Move> {
    const from = this.#node;
    const migration = await migrate(this.lab, from.name, to, this.pod.name);
    const startedAt = await startOfMove(from, this.pod.name);
    const before = { containerId: this.#container, sandboxId: this.#sandbox };
    const move: Move = { from: from.name, to, ...before, migration, startedAt };
    this.#node = nodeNamed(this.lab, to);
    this.#container = migration.containerId;
    this.#sandbox = migration.sandboxId;
    this.moves.push(move);
    await this.#answered();
    return move;
  }

  /** The longest time that the client waited from the start of a move until the start of the next one, or until its end. */
  gapOf(move: Move): Gap {
    const next = this.moves[this.moves.indexOf(move) + 1];
    return longestGap(this.counter.answeredAt, move.startedAt, next?.startedAt ?? this.#stoppedAt ?? performance.now());
  }

  /** The same for the time before the first move: what machine and network cost without any. */
  gapAtRest(): Gap {
    return longestGap(this.counter.answeredAt, this.#connectedAt, this.moves[0]?.startedAt ?? performance.now());
  }

  async #answered(): Promise<void> {
    const since = performance.now();
    const { answeredAt } = this.counter;
    while ((answeredAt.at(-1) ?? 0) < since) {
      if (performance.now() - since > ANSWER_LIMIT_MS) {
        throw new Error(`no answer within ${ANSWER_LIMIT_MS / 1000} s after the move to ${this.#node.name}`);
      }
      await sleep(5);
    }
  }

  /** Stops the client and compares the data. */
  async finish(): Promise<Outcome> {
    this.#stoppedAt = performance.now();
    const report = await this.counter.stop();
    using redis = await RedisConnection.open(this.pod.address);
    return { ...report, digestBefore: this.#digest, digestAfter: await digest(redis) };
  }
}

/** Runs the real command on a node. Throws with the reason that it prints. */
export async function migrate(
  lab: LabEnvironment,
  from: string,
  to: string,
  container: string,
  options: readonly string[] = [],
): Promise<Migration> {
  const command = ['gantry', 'migrate', container, '--to', to, '-o', 'json', ...options];
  const { stdout, stderr, exitCode } = await labExec(lab.name, from, command, { reject: false });
  if (exitCode === 0) return JSON.parse(stdout) as Migration;
  throw new Error(`${command.join(' ')} on ${from} ended with exit code ${exitCode}: ${reasonIn(stderr)}`);
}

/** The error's text, without the progress that is printed before it. */
function reasonIn(stderr: string): string {
  try {
    const { error } = JSON.parse(stderr.slice(stderr.indexOf('{'))) as { error: Record<string, string> };
    return `${error.reason}: ${error.message}${error.hint ? ` (${error.hint})` : ''}`;
  } catch {
    return stderr.trim();
  }
}

export function nodeNamed(lab: LabEnvironment, name: string): NodeEnvironment {
  const node = lab.nodes.find((candidate) => candidate.name === name);
  if (node === undefined) throw new Error(`lab ${lab.name} has no node ${name}`);
  return node;
}

/** Names of the nodes whose runtime (or relay) says that a container of this name is RUNNING; one for each container. */
export async function runningOn(
  lab: Pick<LabEnvironment, 'nodes'>,
  container: string,
  socket: 'runtimeSocket' | 'criSocket' = 'runtimeSocket',
): Promise<string[]> {
  const found = await Promise.all(
    lab.nodes.map(async (node) => {
      using cri = new Cri(node[socket]);
      const containers = (await cri.listContainers()).filter(
        ({ metadata, state }) => metadata?.name === container && state === ContainerState.CONTAINER_RUNNING,
      );
      return containers.map(() => node.name);
    }),
  );
  return found.flat();
}

/** Runs a command in a container through CRI and returns what it printed. */
export async function execIn(socket: string, container: string, command: string[]): Promise<string> {
  const client = connectSocket(socket);
  try {
    const request = { containerId: container, cmd: command, timeout: 10n };
    const result: ExecSyncResponse = await unary(client, Runtime.execSync, request, { timeoutMs: 15_000 });
    if (result.exitCode === 0) return String(result.stdout).trimEnd();
    throw new Error(`${command.join(' ')} ended with exit code ${result.exitCode}: ${String(result.stderr)}`);
  } finally {
    client.close();
  }
}

/** The result's times count from the start of the operation; when that was stands in the agent's log. */
async function startOfMove(node: NodeEnvironment, container: string): Promise<number> {
  const lines = (await readFile(join(node.logs, 'agent.log'), 'utf8'))
    .split('\n')
    .filter((line) => line.startsWith('{'));
  const events = lines.map((line) => JSON.parse(line) as { time: string; event: string; subject?: string });
  const started = events.findLast(({ event, subject }) => event === 'operation-started' && subject === container);
  if (started === undefined) throw new Error(`the agent of node ${node.name} has logged no migration of ${container}`);
  return Date.parse(started.time) - (Date.now() - performance.now());
}

function longestGap(times: readonly number[], since: number, until: number): Gap {
  const inside = times.filter((time) => time >= since && time <= until);
  let gap: Gap = { startMs: 0, durationMs: 0 };
  let last = since;
  for (const time of [...inside, until]) {
    if (time - last > gap.durationMs) gap = { startMs: last - since, durationMs: time - last };
    last = time;
  }
  return gap;
}
