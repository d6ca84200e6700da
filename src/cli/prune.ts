import { Command, InvalidArgumentError } from 'commander';
import { GantryError } from '../errors.ts';
import { carryOut, type Limits, type Plan, planOf, type Removal } from '../inspect/prune.ts';
import { survey } from '../inspect/survey.ts';
import { formatBytes, parseBytes, parseDuration, printable } from '../inspect/units.ts';
import { DEFAULT_FOLDER, interruptible } from './checkpoint-files.ts';
import { type Format, formatJson, formatTable, outputOption, parseCount } from './output.ts';

interface Options {
  olderThan?: number;
  keep?: number;
  maxSize?: number;
  dryRun: boolean;
  outputFormat: Format;
}

/** `gantry prune`: old checkpoints are removed. */
export function pruneCommand(): Command {
  return new Command('prune')
    .description('remove old checkpoints of a folder, for each container by itself')
    .argument('[dir]', 'folder with archives, and with folders that gantry checkpoint made', DEFAULT_FOLDER)
    .option('--older-than <time>', 'those that were made longer ago: 12h, 7d, 4w', durationOf)
    .option('--keep <n>', 'all but the newest n', parseCount('--keep', 1))
    .option('--max-size <size>', 'the oldest that are over this together: 500M, 10G; the newest one stays', bytesOf)
    .option('--dry-run', 'only say what would be removed', false)
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
Each limit is for one container of one pod, by their names; one that is over any of them goes. At least one is needed.
What is no checkpoint, or is damaged, stays, and is named. What is encrypted tells nothing: it goes by the file's time, if
its name has ".tar", and only by --older-than. What a checkpoint that was cut off has left (.partial) goes after a day.
To read the manifest of one that is compressed, all of it has to be unpacked.

Examples:
  gantry prune --keep 3 --dry-run
  gantry prune /var/tmp/checkpoints --older-than 7d --max-size 10G`,
    )
    .action((folder: string, options: Options) =>
      interruptible(async (signal) => {
        const limits = limitsOf(options);
        const plan = planOf(await survey(folder, { depth: 'manifests', signal }), folder, limits, Date.now());
        const { done, failed } = options.dryRun ? { done: plan.removals, failed: [] } : await carryOut(plan, signal);
        const result = resultOf(plan, done, failed, options.dryRun);
        console.log(options.outputFormat === 'json' ? formatJson(result) : textOf(result));
        // After it has been said what was removed until then.
        signal.throwIfAborted();
        const [first] = failed;
        if (first === undefined) return;
        throw new GantryError('INTERNAL', `${failed.length} could not be removed, the first: ${first.why}`);
      }),
    );
}

function limitsOf({ olderThan, keep, maxSize }: Options): Limits {
  if (olderThan === undefined && keep === undefined && maxSize === undefined) {
    throw new GantryError('USAGE', 'nothing says what is too old or too much', {
      hint: 'give one or more of --older-than, --keep and --max-size',
    });
  }
  return { olderThanMs: olderThan, keep, maxBytes: maxSize };
}

function resultOf(plan: Plan, removed: readonly Removal[], failed: Plan['leftAlone'], dryRun: boolean) {
  const freedBytes = removed.reduce((total, { sizeBytes }) => total + sizeBytes, 0);
  return { dryRun, removed, freedBytes, kept: plan.kept, leftAlone: plan.leftAlone, failed };
}

function textOf({ dryRun, removed, freedBytes, kept, leftAlone, failed }: ReturnType<typeof resultOf>): string {
  const rows = removed.map(({ path, group, created, sizeBytes, why }) => [
    path,
    group,
    created,
    formatBytes(sizeBytes),
    why,
  ]);
  const table = [[dryRun ? 'WOULD BE REMOVED' : 'REMOVED', 'OF', 'CREATED', 'SIZE', 'WHY'], ...rows];
  const notes = [
    ...leftAlone.map(({ path, why }) => `${path} stays: ${why}`),
    ...failed.map(({ path, why }) => `${path} could not be removed: ${why}`),
  ];
  const sum = `${removed.length} ${dryRun ? 'would be ' : ''}removed, ${formatBytes(freedBytes)} freed, ${kept.length} kept`;
  return [
    ...(rows.length === 0 ? [] : [formatTable(table.map((row) => row.map(printable)))]),
    ...notes.map(printable),
    sum,
  ].join('\n');
}

function durationOf(text: string): number {
  const milliseconds = parseDuration(text);
  if (milliseconds === undefined) throw new InvalidArgumentError('--older-than is a number with s, m, h, d or w: 7d');
  return milliseconds;
}

function bytesOf(text: string): number {
  const bytes = parseBytes(text);
  if (bytes === undefined) throw new InvalidArgumentError('--max-size is a number, alone or with K, M, G or T: 10G');
  return bytes;
}
