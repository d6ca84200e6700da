import { Command } from 'commander';
import { AgentService, type Result } from '../gen/gantry/v1/agent.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, formatJson, formatTable, outputOption } from './output.ts';

/** `gantry migrate`: a running container moves to another node, with its pod's address and connections. */
export function migrateCommand(): Command {
  return new Command('migrate')
    .description('move a running container, with its sandbox, to another node')
    .argument('<container>', 'ID, ID prefix or name of a running container of this node')
    .requiredOption('--to <node>', 'name of a peer in the agent’s configuration')
    .option('--force', 'also move a pod that a kubelet manages (that kubelet will start it here again)', false)
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
The peer makes a sandbox and a container from this one's own configuration, the files are copied while the container
serves, then it is frozen, its memory is sent, restored there and goes on: same address, same connections. Until the
commit any failure, and Ctrl-C, lets it go on here as if nothing had happened. Killing this command changes nothing:
the agents carry on.

Example:
  gantry migrate redis --to node-b`,
    )
    .action(async (container: string, options: { to: string; force: boolean; agent: string; outputFormat: Format }) => {
      const request = { container, to: options.to, force: options.force };
      const result = await runOperation(options.agent, AgentService.migrate, request);
      for (const warning of result.warnings) console.error(`warning: ${warning}`);
      console.log(options.outputFormat === 'json' ? formatJson(result) : describe(container, result));
    });
}

function describe(container: string, result: Result): string {
  const rows = result.phases.map(({ name, startMs, durationMs }) => [name, startMs.toFixed(0), durationMs.toFixed(0)]);
  return [
    `${container} runs on ${result.node} (${result.mode}), container ${result.containerId.slice(0, 13)}, sandbox ${result.sandboxId.slice(0, 13)}`,
    `frozen for ${result.frozenMs.toFixed(0)} ms, ${(Number(result.bytesSent) / 1024 / 1024).toFixed(1)} MiB sent, kept ${result.addresses.join(', ')}`,
    '',
    formatTable([['PHASE', 'START MS', 'MS'], ...rows]),
  ].join('\n');
}
