import { resolve } from 'node:path';
import { Command } from 'commander';
import { AgentService } from '../gen/gantry/v1/agent.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, formatJson, outputOption } from './output.ts';

interface Options {
  output: string;
  leaveRunning: boolean;
  tcpEstablished: boolean;
  agent: string;
  outputFormat: Format;
}

/** `gantry checkpoint`: a container's state goes into a folder. */
export function checkpointCommand(): Command {
  return new Command('checkpoint')
    .description("write a running container's state into a folder of this node")
    .argument('<container>', 'ID, ID prefix or name of a running container')
    .requiredOption('--output <dir>', 'folder to make; it must not exist yet')
    .option('--leave-running', 'let the container go on afterwards; without it the container ends', false)
    .option('--tcp-established', 'save open TCP connections; without it they make the checkpoint fail', false)
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
The folder (mode 0700: it holds all of the process's memory) has CRIU's images, the container's writable layer and a
manifest. gantry restore starts a container from it.

Example:
  gantry checkpoint redis --output /var/tmp/redis-1 --leave-running --tcp-established`,
    )
    .action(async (container: string, options: Options) => {
      const { leaveRunning, tcpEstablished } = options;
      const request = { container, output: resolve(options.output), leaveRunning, tcpEstablished };
      const result = await runOperation(options.agent, AgentService.checkpoint, request);
      console.log(
        options.outputFormat === 'json' ? formatJson(result) : `${container} is saved in ${result.directory}`,
      );
    });
}
