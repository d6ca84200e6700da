import { resolve } from 'node:path';
import { Command } from 'commander';
import { AgentService } from '../gen/gantry/v1/agent.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, formatJson, outputOption } from './output.ts';

/** `gantry restore`: a container starts from a checkpoint, in a sandbox that exists. */
export function restoreCommand(): Command {
  return new Command('restore')
    .description('start a container from a checkpoint, in a sandbox that exists')
    .argument('<dir>', 'folder that gantry checkpoint made')
    .requiredOption('--sandbox <id>', 'ID or ID prefix of a ready sandbox of this node')
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
The container is created through CRI, so that crictl and kubelet see an ordinary one, and then started from the
checkpoint instead of from its beginning. Open TCP connections come back only where the sandbox has the address that
they were made with.

Example:
  gantry restore /var/tmp/redis-1 --sandbox 3f2a9c`,
    )
    .action(async (directory: string, options: { sandbox: string; agent: string; outputFormat: Format }) => {
      const request = { directory: resolve(directory), sandbox: options.sandbox };
      const result = await runOperation(options.agent, AgentService.restore, request);
      const text = `container ${result.containerId.slice(0, 13)} runs in sandbox ${result.sandboxId.slice(0, 13)}`;
      console.log(options.outputFormat === 'json' ? formatJson(result) : text);
    });
}
