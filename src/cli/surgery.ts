import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { parse } from 'yaml';
import { GantryError, messageOf } from '../errors.ts';
import { AgentService, type Result, SurgeryRequest } from '../gen/gantry/v1/agent.ts';
import { identityOption } from './checkpoint-files.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, outputOption, parseCount, printResult } from './output.ts';
import { rollBackMigration } from './retention.ts';

interface Options {
  name?: string;
  image?: string;
  config?: string;
  checkpoint?: string;
  keep?: boolean;
  keepState?: boolean;
  grace?: number;
  settle?: number;
  retain?: number;
  key?: string;
  agent: string;
  outputFormat: Format;
}

const graceOption = () =>
  new Option(
    '--grace <seconds>',
    'from SIGTERM to SIGKILL for the one who leaves (default: as the pod says)',
  ).argParser(parseCount('--grace', 0));
const retainOption = () =>
  new Option('--retain <seconds>', 'for how long the one who leaves can be brought back')
    .argParser(parseCount('--retain', 0))
    .default(86_400);
const settleOption = () =>
  new Option('--settle <ms>', 'how long the new one has to stay up before it counts')
    .argParser(parseCount('--settle', 0))
    .default(2000);
const keepStateOption = () =>
  new Option('--keep-state', 'freeze the one who leaves rather than stopping it; it goes on holding its ports').default(
    false,
  );

function withCommon(command: Command): Command {
  return command
    .option('--key <key>', 'an operation whose key has been used already is not carried out again')
    .addOption(agentOption())
    .addOption(outputOption());
}

function withComing(command: Command): Command {
  return command
    .option('--image <image>', 'an image of this node; everything else stays as the slot has it')
    .option('--config <file>', 'runtime.v1.ContainerConfig, JSON or YAML; what it has replaces what the slot has')
    .option('--checkpoint <dir>', 'folder that gantry checkpoint made');
}

/** `gantry remove`: a container is taken out of its sandbox, and its client goes on seeing it. */
export function removeCommand(): Command {
  return withCommon(
    new Command('remove')
      .description('take a container out of its sandbox; kubelet goes on seeing it')
      .argument('<container>', 'ID, ID prefix or name')
      .option('--keep', 'freeze it rather than stopping it: gantry rollback lets it go on', false)
      .addOption(graceOption()),
  )
    .addHelpText(
      'after',
      `
Its place stays: kubelet is shown the same container, running, and restarts nothing. Probes over the network and
clients of the container do notice. gantry insert puts another one there.

Examples:
  gantry remove redis
  gantry remove redis --keep && gantry rollback redis`,
    )
    .action(async (target: string, options: Options) => {
      const result = await perform('remove', target, { ...options, keepState: options.keep === true });
      const left = result.slotId === '' ? 'it was an extra one' : 'its slot is empty';
      printResult(options.outputFormat, result, `${target} is out of sandbox ${short(result.sandboxId)}; ${left}`);
    });
}

/** `gantry insert`: a container comes into an empty slot, or beside those of a sandbox. */
export function insertCommand(): Command {
  return withCommon(
    withComing(
      new Command('insert')
        .description('put a container into an empty slot, or an extra one into a sandbox')
        .argument('<sandbox>', 'ID or ID prefix of a ready sandbox')
        .requiredOption('--name <name>', 'name of the slot; of the extra container when there is no such slot'),
    ).addOption(settleOption()),
  )
    .addHelpText(
      'after',
      `
In a slot kubelet sees the new container under the ID it knows. An extra container is not seen by kubelet; it shares
the sandbox's network and IPC, and ends with the sandbox.

Examples:
  gantry insert 3f2a9c --name redis --image redis:8
  gantry insert 3f2a9c --name debug --config debug.yaml`,
    )
    .action(async (target: string, options: Options) => {
      const result = await perform('insert', target, options);
      const what = result.slotId === '' ? 'as an extra container' : `in slot ${short(result.slotId)}`;
      printResult(options.outputFormat, result, `${options.name} runs ${what}, container ${short(result.containerId)}`);
    });
}

/** `gantry swap`: one container for another, with a way back. */
export function swapCommand(): Command {
  return withCommon(
    withComing(
      new Command('swap')
        .description('exchange a container for another one; kubelet goes on seeing the same')
        .argument('<container>', 'ID, ID prefix or name'),
    )
      .addOption(keepStateOption())
      .addOption(graceOption())
      .addOption(settleOption())
      .addOption(retainOption()),
  )
    .addHelpText(
      'after',
      `
The new one is made while the old one runs. When it does not start, or does not stay up, the old one is back. Until the
time of --retain is over, gantry rollback brings it back, too.

Examples:
  gantry swap redis --image redis:8
  gantry swap redis --config new.yaml --settle 10000`,
    )
    .action(async (target: string, options: Options) => {
      const result = await perform('swap', target, options);
      printResult(
        options.outputFormat,
        result,
        `${target} is container ${short(result.containerId)} now; ${changeOver(result)}`,
      );
    });
}

/** No container has an ID of this length, and a prefix of one is hardly ever as long. */
const MIGRATION = /^[0-9a-f]{16}$/;

/** `gantry rollback`: who was there before comes back. */
export function rollbackCommand(): Command {
  return withCommon(
    new Command('rollback')
      .description('bring back the container that was in a slot before, or a pod that has moved away')
      .argument('<what>', 'container (ID, ID prefix or name), or the whole ID of a migration')
      .addOption(keepStateOption())
      .addOption(graceOption())
      .addOption(settleOption())
      .addOption(retainOption()),
  )
    .addHelpText(
      'after',
      `
One that was frozen goes on where it was. One that was stopped is started again, with the files that it had written.

Of a migration, on the node that was its source: the copy on the other node is ended first, then the pod starts here as it was
when it was frozen. All that it has done since is lost, also what it has answered to its clients.

Examples:
  gantry rollback redis
  gantry rollback 4b1c0a6e2f9d8b37`,
    )
    .addOption(identityOption())
    .option('--peer-is-lost', 'of a migration: the node that has the pod is off and stays off, and is not asked', false)
    .action(async (target: string, options: Options & { identity: string[]; peerIsLost: boolean }) => {
      if (MIGRATION.test(target)) return rollBackMigration(target, options);
      const result = await perform('rollback', target, options);
      printResult(
        options.outputFormat,
        result,
        `${target} is container ${short(result.containerId)} again; ${changeOver(result)}`,
      );
    });
}

async function perform(
  verb: 'remove' | 'insert' | 'swap' | 'rollback',
  target: string,
  options: Options,
): Promise<Result> {
  const request = SurgeryRequest.fromPartial({
    target,
    name: options.name ?? '',
    image: options.image ?? '',
    configJson: options.config === undefined ? '' : await readAsJson(options.config),
    checkpoint: options.checkpoint === undefined ? '' : resolve(options.checkpoint),
    keepState: options.keepState ?? false,
    graceSeconds: options.grace ?? -1,
    settleMs: options.settle ?? 0,
    retainSeconds: options.retain ?? 86_400,
    key: options.key ?? '',
    who: process.env.SUDO_USER ?? process.env.USER ?? `uid ${process.getuid?.() ?? '?'}`,
  });
  return runOperation(options.agent, AgentService[verb], request);
}

async function readAsJson(file: string): Promise<string> {
  try {
    return JSON.stringify(parse(await readFile(file, 'utf8')));
  } catch (error) {
    throw new GantryError('USAGE', `cannot read the configuration ${file}: ${messageOf(error)}`, { cause: error });
  }
}

function changeOver({ changeOverMs }: Result): string {
  return `changed over in ${changeOverMs.toFixed(0)} ms`;
}

function short(id: string): string {
  return id.slice(0, 13);
}
