import { Command } from 'commander';
import { diff } from '../inspect/diff.ts';
import { differenceTables } from '../inspect/diff-text.ts';
import { Checkpoint } from '../inspect/open.ts';
import { FileProgress, formatTables, identitiesIn, identityOption, interruptible } from './checkpoint-files.ts';
import { type Format, formatJson, outputOption } from './output.ts';

interface Options {
  container?: string;
  identity: string[];
  outputFormat: Format;
}

/** `gantry diff`: what has become of a container between two of its checkpoints. */
export function diffCommand(): Command {
  return new Command('diff')
    .description('compare two checkpoints: processes, open files, sockets, memory page by page, written files')
    .argument('<from>', 'archive or folder, the earlier one')
    .argument('<to>', 'archive or folder, the later one')
    .option('--container <name>', 'which one, when they are checkpoints of a pod')
    .addOption(identityOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
Processes are the same when number and name are. Memory is compared by content: a page is changed when it is in both
checkpoints with other bytes, added when only the second has it, removed when only the first has it, and unknown when one
of them refers to an earlier dump for it. Files are those that the container has written, by content, rights and time.

The exit code is 0 whether anything differs or not; scripts ask -o json.

Examples:
  gantry diff redis-1.tar redis-2.tar
  gantry diff redis-1.tar redis-2.tar -o json | jq "[.memory[].changed] | add"`,
    )
    .action((from: string, to: string, options: Options) =>
      interruptible(async (signal) => {
        const identities = await identitiesIn(options.identity);
        using progress = new FileProgress('gantry diff');
        const onUnpacked = (bytes: number) => progress.unpacked(bytes);
        const { container } = options;
        const how = { identities, signal, onUnpacked, ...(container === undefined ? {} : { container }) };
        await using before = await Checkpoint.open(from, how);
        await using after = await Checkpoint.open(to, how);
        const difference = await diff(before, after, signal);
        progress.clear();
        for (const warning of difference.warnings) console.error(`warning: ${warning}`);
        const isJson = options.outputFormat === 'json';
        console.log(isJson ? formatJson(difference) : formatTables(differenceTables(difference)));
      }),
    );
}
