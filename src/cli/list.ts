import { Command } from 'commander';
import { type Found, survey } from '../inspect/survey.ts';
import { formatBytes, printable } from '../inspect/units.ts';
import { DEFAULT_FOLDER, identitiesIn, identityOption, interruptible } from './checkpoint-files.ts';
import { type Format, formatJson, formatTable, outputOption } from './output.ts';

interface Options {
  verify: boolean;
  identity: string[];
  outputFormat: Format;
}

/** What stands under WHOLE. */
const WHOLE = { whole: 'yes', sound: 'sound', unread: '?', damaged: 'no', unfinished: 'no' } as const;

/** `gantry list`: the checkpoints in a folder. */
export function listCommand(): Command {
  return new Command('list')
    .description('list the checkpoints in a folder')
    .argument('[dir]', 'folder with archives, and with folders that gantry checkpoint made', DEFAULT_FOLDER)
    .option('--verify', 'read every one of them to its end, as gantry verify does', false)
    .addOption(identityOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
Of archives only headers and manifest are read: WHOLE says whether every member is there in its size. What is compressed
or encrypted would have to be read to its end; "?" stands for what that would tell. --verify does it.

Example:
  gantry list /var/tmp -o json | jq -r '.[] | select(.state == "damaged").path'`,
    )
    .action((folder: string, options: Options) =>
      interruptible(async (signal) => {
        const identities = await identitiesIn(options.identity);
        const { found } = await survey(folder, {
          depth: options.verify ? 'everything' : 'headers',
          identities,
          signal,
        });
        if (options.outputFormat === 'json') console.log(formatJson(found.map(summaryOf)));
        else console.log(textOf(found));
      }),
    );
}

function summaryOf({ name, path, packing, sizeBytes, modified, state, why, facts }: Found) {
  return {
    name,
    path,
    packing,
    encrypted: packing === 'encrypted',
    sizeBytes,
    modified: modified.toISOString(),
    state,
    why,
    ...(facts === undefined ? {} : { facts }),
  };
}

function kindOf(packing: Found['packing'], facts: Found['facts']): string {
  if (facts?.parent !== undefined) return `folder, after ${facts.parent}`;
  return packing === 'plain' ? 'archive' : packing;
}

function textOf(found: readonly Found[]): string {
  const rows = found.map(({ name, packing, sizeBytes, state, facts }) => [
    name,
    facts === undefined ? '?' : [facts.pod.namespace, facts.pod.name].filter(Boolean).join('/') || '-',
    facts === undefined ? '?' : facts.container.name || '-',
    facts === undefined ? '?' : facts.image.name || facts.image.id || '-',
    facts === undefined ? '?' : facts.created || '-',
    formatBytes(sizeBytes),
    kindOf(packing, facts),
    WHOLE[state],
  ]);
  const heading = ['NAME', 'POD', 'CONTAINER', 'IMAGE', 'CREATED', 'SIZE', 'KIND', 'WHOLE'];
  const notes = found
    .filter(({ state }) => state === 'damaged' || state === 'unfinished')
    .map(({ name, why }) => `${printable(name)}: ${printable(why)}`);
  return [formatTable([heading, ...rows.map((row) => row.map(printable))]), ...notes].join('\n');
}
