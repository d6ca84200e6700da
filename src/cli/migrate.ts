import { Command, InvalidArgumentError } from 'commander';
import { AgentService, type Result } from '../gen/gantry/v1/agent.ts';
import { parseBytes } from '../inspect/units.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, formatJson, formatTable, outputOption, parseCount } from './output.ts';

const LEAST_RATE = 64 * 1024;

/** `gantry migrate`: a running container moves to another node, with its pod's address and connections. */
export function migrateCommand(): Command {
  return new Command('migrate')
    .description('move a running container, with its sandbox, to another node')
    .argument('<container>', 'ID, ID prefix or name of a running container of this node')
    .requiredOption('--to <node>', 'name of a peer in the agent’s configuration')
    .option('--force', 'also move a pod that a kubelet manages (that kubelet will start it here again)', false)
    .option('--bandwidth <rate>', 'bytes per second of all that is sent: 100M, 1G (powers of 1024)', rateOf)
    .option(
      '--wait <seconds>',
      'for a place, when the nodes move as many pods as they may',
      parseCount('--wait', 0),
      60,
    )
    .option('--priority <n>', 'among those that wait for a place: higher first', priorityOf, 0)
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
The peer makes a sandbox and a container from this one's own configuration, the files are copied while the container
serves, then it is frozen, its memory is sent, restored there and goes on: same address, same connections. Until the
commit any failure, and Ctrl-C, lets it go on here as if nothing had happened. Killing this command changes nothing:
the agents carry on (gantry migrations).

Example:
  gantry migrate redis --to node-b --bandwidth 100M`,
    )
    .action(async (container: string, options: Options) => {
      const { to, force, bandwidth = 0, priority, wait: waitSeconds } = options;
      const request = { container, to, force, priority, waitSeconds, bandwidth: BigInt(bandwidth) };
      const result = await runOperation(options.agent, AgentService.migrate, request, 'migration');
      console.log(options.outputFormat === 'json' ? formatJson(result) : describe(container, result));
    });
}

interface Options {
  to: string;
  force: boolean;
  bandwidth?: number;
  priority: number;
  wait: number;
  agent: string;
  outputFormat: Format;
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
    `frozen for ${result.frozenMs.toFixed(0)} ms, ${(Number(result.bytesSent) / 1024 / 1024).toFixed(1)} MiB sent, kept ${result.addresses.join(', ')}`,
    `migration ${result.operation}`,
    '',
    formatTable([['PHASE', 'START MS', 'MS'], ...rows]),
  ].join('\n');
}
