import { Command } from 'commander';
import { AgentService, MigrationRequest, type Result } from '../gen/gantry/v1/agent.ts';
import { identitiesIn } from './checkpoint-files.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, outputOption, printResult } from './output.ts';

interface Options {
  readonly agent: string;
  readonly outputFormat: Format;
}

const ID = 'ID of a migration that this node was the source of';

/** `gantry commit`: the state of before a migration is not kept any longer. */
export function commitCommand(): Command {
  return new Command('commit')
    .description('end the time in which a migration can be rolled back: its kept state is removed')
    .argument('<migration>', ID)
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
The address stays reserved here until the pod is gone.

Example:
  gantry commit 4b1c0a6e2f9d8b37`,
    )
    .action(async (migration: string, options: Options) => {
      const request = MigrationRequest.fromPartial({ migration });
      const result = await runOperation(options.agent, AgentService.commitMigration, request);
      print(options, result, `${migration} cannot be rolled back any more`);
    });
}

/** `gantry release`: frees the address of a pod that is gone, together with its node. */
export function releaseCommand(): Command {
  return new Command('release')
    .description('free the address that is kept for a pod which has moved away')
    .argument('<migration>', ID)
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
Addresses are freed by themselves when the pod is gone. This is for when the node that has it is lost and will not tell. A pod
that still runs there would share its address with a new one.

Example:
  gantry release 4b1c0a6e2f9d8b37`,
    )
    .action(async (migration: string, options: Options) => {
      const request = MigrationRequest.fromPartial({ migration });
      const result = await runOperation(options.agent, AgentService.releaseMigration, request);
      print(options, result, `released ${result.addresses.join(', ')}`);
    });
}

/** `gantry rollback` of a migration. Errors: USAGE, those of the agent. */
export async function rollBackMigration(
  migration: string,
  options: Options & { readonly identity: string[]; readonly peerIsLost: boolean },
): Promise<void> {
  const identities = await identitiesIn(options.identity);
  const request = MigrationRequest.fromPartial({ migration, identities, peerIsLost: options.peerIsLost });
  const result = await runOperation(options.agent, AgentService.rollbackMigration, request);
  print(
    options,
    result,
    `the pod runs here again, as it was when it was frozen: sandbox ${result.sandboxId.slice(0, 13)}`,
  );
}

function print({ outputFormat }: Options, result: Result, text: string): void {
  for (const warning of result.warnings) console.error(`warning: ${warning}`);
  printResult(outputFormat, result, text);
}
