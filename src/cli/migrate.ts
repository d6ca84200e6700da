import { Command, InvalidArgumentError, Option } from 'commander';
import { AgentService, MigrateRequest, type Quiesced, type Result } from '../gen/gantry/v1/agent.ts';
import { parseBytes } from '../inspect/units.ts';
import { LIMITED, MODES } from '../migrate/modes.ts';
import { MOST_MS } from '../network/quiesce.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, formatTable, outputOption, parseCount, printResult } from './output.ts';
import { addProbeOptions, type ProbeOptions, probesOf } from './probes.ts';

/** A week. */
const MOST_SECONDS = 7 * 24 * 3600;
const LEAST_RATE = 64 * 1024;

/** `gantry migrate`: a running container moves to another node, with its pod's address and connections. */
export function migrateCommand(): Command {
  const command = new Command('migrate')
    .description('move a running container, with its sandbox, to another node')
    .argument('<container>', 'ID, ID prefix or name of a running container of this node')
    .requiredOption('--to <node>', 'name of a peer in the agent’s configuration')
    .option('--force', 'also move a pod that a kubelet manages (that kubelet will start it here again)', false)
    .addOption(
      new Option('--mode <mode>', 'how; without it the best that keeps memory and connections').choices([...MODES]),
    )
    .option(
      '--timeout <phase=seconds>',
      `rolls back when it takes longer: ${LIMITED.join(', ')} (all since the freeze); repeatable`,
      addTimeout,
      {},
    )
    .option('--grace <seconds>', 'cold: from the stop signal to SIGKILL (as the pod says)', parseCount('--grace', 0))
    .option('--quiesce <seconds>', 'how long to wait for a moment without requests; 0: not at all', parseQuiesce, 1)
    .option('--bandwidth <rate>', 'bytes per second of all that is sent: 100M, 1G (powers of 1024)', rateOf)
    .option(
      '--wait <seconds>',
      'for a place, when the nodes move as many pods as they may',
      parseCount('--wait', 0),
      60,
    )
    .option('--priority <n>', 'among those that wait for a place: higher first', priorityOf, 0);
  return addProbeOptions(command)
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
The peer makes a sandbox and a container from this one's own configuration, the files are copied while the container
serves, then it is frozen, its memory is sent, restored there and goes on: same address, same connections. Until the
commit any failure, and Ctrl-C, lets it go on here as if nothing had happened. Killing this command changes nothing:
the agents carry on (gantry migrations).

Examples:
  gantry migrate redis --to node-b --bandwidth 100M
  gantry migrate web --to node-b --mode auto        # what cannot be checkpointed moves cold, and the report says so
  gantry migrate web --to node-b --mode cold        # files and address move, the processes are stopped and start anew
  gantry migrate web --to node-b --quiesce 3 --verify-http 8080/healthz`,
    )
    .action(async (container: string, options: Options) => {
      const { to, force, quiesce, bandwidth = 0, priority, wait: waitSeconds } = options;
      const request = MigrateRequest.fromPartial({
        container,
        to,
        force,
        quiesceMs: Math.round(quiesce * 1000),
        verify: probesOf(options),
        priority,
        waitSeconds,
        bandwidth: BigInt(bandwidth),
        mode: options.mode ?? '',
        timeouts: options.timeout,
        ...(options.grace !== undefined && { graceSeconds: options.grace }),
      });
      const result = await runOperation(options.agent, AgentService.migrate, request, 'migration');
      for (const warning of result.warnings) console.error(`warning: ${warning}`);
      printResult(options.outputFormat, result, describe(container, result));
    });
}

interface Options extends ProbeOptions {
  to: string;
  force: boolean;
  quiesce: number;
  bandwidth?: number;
  priority: number;
  wait: number;
  mode?: string;
  timeout: Record<string, number>;
  grace?: number;
  agent: string;
  outputFormat: Format;
}

/** Errors: one that commander shows, for a phase or a number that is none. */
export function addTimeout(text: string, before: Record<string, number>): Record<string, number> {
  const at = text.lastIndexOf('=');
  const [phase, seconds] = [text.slice(0, Math.max(0, at)), Number(text.slice(at + 1))];
  if (!(LIMITED as readonly string[]).includes(phase))
    throw new InvalidArgumentError(`it is PHASE=SECONDS, with one of ${LIMITED.join(', ')}`);
  if (at === text.length - 1 || !(seconds > 0 && seconds <= MOST_SECONDS))
    throw new InvalidArgumentError(`the limit is more than 0 and at most ${MOST_SECONDS} seconds`);
  return { ...before, [phase]: seconds };
}

function parseQuiesce(text: string): number {
  const seconds = Number(text);
  if (text.trim() === '' || !(seconds >= 0 && seconds <= MOST_MS / 1000))
    throw new InvalidArgumentError(`it is a number of seconds from 0 to ${MOST_MS / 1000}`);
  return seconds;
}

function rateOf(text: string): number {
  const bytes = parseBytes(text);
  // Less would keep a chunk waiting for longer than the peer does.
  if (bytes === undefined || bytes < LEAST_RATE)
    throw new InvalidArgumentError('--bandwidth is a number from 64K, alone or with K, M, G or T: 100M');
  return bytes;
}

function priorityOf(text: string): number {
  const priority = Number(text);
  if (text.trim() === '' || !Number.isInteger(priority) || Math.abs(priority) > 1_000_000)
    throw new InvalidArgumentError('--priority is a whole number');
  return priority;
}

function describe(container: string, result: Result): string {
  const rows = result.phases.map(({ name, startMs, durationMs }) => [name, startMs.toFixed(0), durationMs.toFixed(0)]);
  return [
    `${container} runs on ${result.node} (${result.mode}), container ${result.containerId.slice(0, 13)}, sandbox ${result.sandboxId.slice(0, 13)}`,
    `${result.mode === 'cold' ? 'stopped, to start anew there, for' : 'frozen for'} ${result.frozenMs.toFixed(0)} ms, ${(Number(result.bytesSent) / 1024 / 1024).toFixed(1)} MiB sent, kept ${result.addresses.join(', ')}`,
    `migration ${result.operation}`,
    ...(result.quiesced === undefined ? [] : [describeQuiesced(result.quiesced)]),
    '',
    formatTable([['PHASE', 'START MS', 'MS'], ...rows]),
  ].join('\n');
}

/** One line of text: whether the freeze has met requests, and which. */
export function describeQuiesced({ quiet, waitedMs, packets, waiting }: Quiesced): string {
  const waited = waitedMs.toFixed(0);
  if (quiet) return `quiet after ${waited} ms`;
  const why = [
    ...(waiting > 0 ? [`${plural(waiting, 'connection')} had data waiting`] : []),
    ...(packets > 0 ? [`${plural(packets, 'packet')} had just come in`] : []),
  ];
  return `not quiet within ${waited} ms: ${why.join(', ') || 'only just now'}`;
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
