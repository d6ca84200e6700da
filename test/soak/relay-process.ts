import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RelayName } from './faults.ts';
import { listeningSocket } from './listening-socket.ts';
import { PLAN, RELAY } from './plan.ts';

const SUPERVISE = join(import.meta.dirname, 'supervise.sh');

/** One process of `gantry proxy`, from its start to its end. */
export interface Incarnation {
  readonly pid: number;
  /** When the supervisor started it, it served, and it ended. */
  readonly spawnedAt: number;
  servingAt?: number;
  endedAt?: number;
  /** Of the process; 128 and the signal's number when one ended it. */
  exitStatus?: number;
}

/** A line of the relay's log. */
export interface RelayEvent {
  readonly level: string;
  readonly event: string;
  readonly [field: string]: unknown;
}

export interface RelayProcessOptions {
  readonly name: RelayName;
  /** `gantry`; it must stay the same while the soak runs. */
  readonly program: string;
  readonly folder: string;
  readonly upstream: string;
  /** Is told of each line of the log; text that is no line of the log comes as the event `text`. */
  readonly onEvent: (event: RelayEvent) => void;
  readonly onEnd: (ended: Incarnation) => void;
}

/** `gantry proxy` on a socket that a supervisor holds and passes to one process after the other. */
export class RelayProcess implements AsyncDisposable {
  readonly name: RelayName;
  readonly socket: string;
  readonly metricsSocket: string;
  readonly incarnations: Incarnation[] = [];
  readonly #options: RelayProcessOptions;
  #supervisor: ChildProcess | undefined;
  #stopping = false;

  static async start(options: RelayProcessOptions): Promise<RelayProcess> {
    const relay = new RelayProcess(options);
    try {
      await relay.#start();
      await relay.#serving();
    } catch (error) {
      await relay[Symbol.asyncDispose]();
      throw error;
    }
    return relay;
  }

  private constructor(options: RelayProcessOptions) {
    this.#options = options;
    this.name = options.name;
    this.socket = join(options.folder, `${options.name}.sock`);
    this.metricsSocket = join(options.folder, `${options.name}-metrics.sock`);
  }

  /** The one that runs, or ran last. */
  get current(): Incarnation | undefined {
    return this.incarnations.at(-1);
  }

  get isServing(): boolean {
    return this.current?.servingAt !== undefined && this.current.endedAt === undefined;
  }

  /** Ends supervisor and relay in order, or at once when they do not listen. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping = true;
    const supervisor = this.#supervisor;
    if (supervisor?.pid === undefined || supervisor.exitCode !== null || supervisor.signalCode !== null) return;
    const exited = once(supervisor, 'exit');
    supervisor.kill('SIGTERM');
    const limit = new AbortController();
    await Promise.race([exited, sleep(RELAY.drainTimeoutMs + 3000, undefined, { signal: limit.signal })]);
    limit.abort();
    // The relay dies with it.
    if (supervisor.exitCode === null) supervisor.kill('SIGKILL');
    await exited;
  }

  async #start(): Promise<void> {
    const { upstream, program } = this.#options;
    const listening = await listeningSocket(this.socket, RELAY.backlog);
    const args = ['proxy', '--upstream', upstream, '--metrics', `unix:${this.metricsSocket}`];
    args.push('--upstream-wait', String(RELAY.upstreamWaitMs), '--drain-timeout', String(RELAY.drainTimeoutMs));
    const supervise = [SUPERVISE, String(RELAY.restartDelaySeconds), program];
    const supervisor = spawn(
      'setpriv',
      ['--pdeathsig', 'KILL', 'sh', ...supervise, ...args],
      // Not in the terminal's process group: Ctrl-C is for the soak, which ends the relays when nothing calls them.
      { stdio: ['ignore', 'pipe', 'pipe', listening.fd], detached: true },
    );
    this.#supervisor = supervisor;
    this.#onLines(supervisor.stdout, (line) => this.#onSupervisor(line));
    this.#onLines(supervisor.stderr, (line) => this.#onLog(line));
    await once(supervisor, 'spawn');
    await listening.release();
  }

  async #serving(): Promise<void> {
    const limit = performance.now() + PLAN.relayReturnLimitMs;
    while (!this.isServing) {
      if (performance.now() > limit) throw new Error(`the ${this.name} relay does not start`);
      if (this.incarnations.length > 1) throw new Error(`the ${this.name} relay ends as soon as it is started`);
      await sleep(20);
    }
  }

  #onLines(stream: Readable | null, take: (line: string) => void): void {
    if (stream !== null) createInterface({ input: stream }).on('line', take);
  }

  #onSupervisor(line: string): void {
    const [what, pid, exitStatus] = line.split(' ');
    if (what === 'start') {
      this.incarnations.push({ pid: Number(pid), spawnedAt: performance.now() });
      return;
    }
    const ended = this.current;
    if (what !== 'end' || ended?.pid !== Number(pid)) return;
    ended.endedAt = performance.now();
    ended.exitStatus = Number(exitStatus);
    if (!this.#stopping) this.#options.onEnd(ended);
  }

  #onLog(line: string): void {
    const event = parseEvent(line);
    if (event.event === 'started' && this.current !== undefined) this.current.servingAt ??= performance.now();
    this.#options.onEvent(event);
  }
}

function parseEvent(line: string): RelayEvent {
  try {
    return JSON.parse(line) as RelayEvent;
  } catch {
    return { level: 'error', event: 'text', text: line };
  }
}
