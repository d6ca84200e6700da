import { Command } from 'commander';
import { AgentService, ResumeRequest } from '../gen/gantry/v1/agent.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, outputOption, printResult } from './output.ts';

/** `gantry resume`: what a checkpoint has left paused goes on. */
export function resumeCommand(): Command {
  return new Command('resume')
    .description('let a container or a pod go on that gantry checkpoint --pause has left frozen')
    .argument(
      '<container>',
      'ID, ID prefix or name of a container; or of a pod, by the ID of its sandbox or by its name',
    )
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
One that runs already is left as it is, with a warning.

Examples:
  gantry checkpoint redis --archive /var/tmp/redis.tar --pause
  gantry resume redis`,
    )
    .action(async (container: string, options: { agent: string; outputFormat: Format }) => {
      const request = ResumeRequest.fromPartial({ container });
      const result = await runOperation(options.agent, AgentService.resume, request);
      for (const warning of result.warnings) console.error(`warning: ${warning}`);
      printResult(options.outputFormat, result, `${container} goes on`);
    });
}
