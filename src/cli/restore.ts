import { resolve } from 'node:path';
import { Command } from 'commander';
import { GantryError } from '../errors.ts';
import { AgentService, RestoreRequest, SurgeryRequest } from '../gen/gantry/v1/agent.ts';
import { identitiesIn, identityOption } from './checkpoint-files.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, outputOption, printResult } from './output.ts';

interface Options {
  sandbox?: string;
  newSandbox?: string;
  inPlace?: string;
  name?: string;
  identity: string[];
  tcpClose: boolean;
  allowSetuid: boolean;
  trustConfig: boolean;
  criuOption: string[];
  agent: string;
  outputFormat: Format;
}

const collect = (value: string, all: string[]) => [...all, value];

/** `gantry restore`: a container starts from a checkpoint. */
export function restoreCommand(): Command {
  return new Command('restore')
    .description('start a container from a checkpoint: in a sandbox that exists, in a new one, or in place')
    .argument(
      '<checkpoint>',
      'archive or folder that gantry checkpoint made; archives of containerd, CRI-O and Podman, too',
    )
    .option('--sandbox <id>', 'ID or ID prefix of a ready sandbox of this node')
    .option('--new-sandbox <name>', 'make a sandbox of that name, configured as the one that the checkpoint is from')
    .option('--in-place <container>', 'put it in the place of a container that runs, as gantry swap does')
    .option('--name <name>', 'of the container, where it is to be another one')
    .addOption(identityOption())
    .option('--tcp-close', 'close the TCP connections that were open', false)
    .option('--allow-setuid', 'accept files that are setuid or have capabilities', false)
    .option('--trust-config', 'its configuration may ask for files of the node, devices and privileges', false)
    .option('--criu-option <line>', 'a line of configuration for CRIU, see criu(8); may be repeated', collect, [])
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
The container is created through CRI, so that crictl and kubelet see an ordinary one, and then started from the
checkpoint instead of from its beginning. Open TCP connections come back only where the sandbox has the address that
they were made with; elsewhere they are closed. Every member of an archive is compared with its manifest first.

Examples:
  gantry restore /var/tmp/redis.tar --sandbox 3f2a9c
  gantry restore /var/tmp/redis.tar --new-sandbox redis-copy
  gantry restore /var/tmp/redis.tar --in-place redis`,
    )
    .action(async (source: string, options: Options) => {
      const targets = [options.sandbox, options.newSandbox, options.inPlace].filter((one) => one !== undefined);
      if (targets.length !== 1)
        throw new GantryError('USAGE', 'where to? one of --sandbox, --new-sandbox and --in-place');
      const result =
        options.inPlace === undefined
          ? await runOperation(options.agent, AgentService.restore, await requestFor(source, options))
          : await runOperation(options.agent, AgentService.swap, swapFor(source, options.inPlace));
      for (const warning of result.warnings) console.error(`warning: ${warning}`);
      const text = `container ${result.containerId.slice(0, 13)} runs in sandbox ${result.sandboxId.slice(0, 13)}`;
      printResult(options.outputFormat, result, text);
    });
}

async function requestFor(source: string, options: Options): Promise<RestoreRequest> {
  return RestoreRequest.fromPartial({
    source: resolve(source),
    sandbox: options.sandbox ?? '',
    newSandbox: options.newSandbox ?? '',
    name: options.name ?? '',
    identities: await identitiesIn(options.identity),
    tcpClose: options.tcpClose,
    allowSetuid: options.allowSetuid,
    trustConfig: options.trustConfig,
    criuOptions: options.criuOption,
  });
}

function swapFor(source: string, target: string): SurgeryRequest {
  return SurgeryRequest.fromPartial({
    target,
    checkpoint: resolve(source),
    graceSeconds: -1,
    settleMs: 2000,
    retainSeconds: 86_400,
    who: process.env.SUDO_USER ?? process.env.USER ?? '',
  });
}
