import { Command } from 'commander';
import { GantryError, type Reason } from '../errors.ts';
import { openAll } from '../inspect/open.ts';
import { formatBytes, printable } from '../inspect/units.ts';
import { type Verified, verify } from '../inspect/verify.ts';
import { FileProgress, identitiesIn, identityOption, interruptible } from './checkpoint-files.ts';
import { type Format, formatJson, outputOption } from './output.ts';

interface Options {
  identity: string[];
  outputFormat: Format;
}

interface Verdict {
  readonly path: string;
  readonly sound: boolean;
  readonly verified?: Verified;
  readonly error?: { readonly reason: Reason; readonly message: string; readonly hint: string };
}

/** `gantry verify`: whether checkpoints are as they were made. */
export function verifyCommand(): Command {
  return new Command('verify')
    .description('read checkpoints to their end, and say whether they are sound')
    .argument('<checkpoint...>', 'archives and folders')
    .addOption(identityOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
Every member is compared with the SHA-256 in the manifest, every image of CRIU is decoded, page maps are compared with the
pages, and the headers of written files are checked. Archives of other makers have no sums, and folders have none of
CRIU's images: of those, how they are made up is all that can be checked.

One that is not sound makes the exit code 35; the others are verified all the same.

Example:
  gantry verify /var/lib/gantry/checkpoints/*.tar`,
    )
    .action((paths: string[], options: Options) =>
      interruptible(async (signal) => {
        const identities = await identitiesIn(options.identity);
        const verdicts: Verdict[] = [];
        for (const path of paths) {
          const verdict = await verdictOn(path, identities, signal);
          verdicts.push(verdict);
          if (options.outputFormat === 'table') console.log(printable(textOf(verdict)));
        }
        if (options.outputFormat === 'json') console.log(formatJson(verdicts));
        complain(verdicts);
      }),
    );
}

async function verdictOn(path: string, identities: readonly string[], signal: AbortSignal): Promise<Verdict> {
  using progress = new FileProgress(path);
  try {
    const onUnpacked = (bytes: number) => progress.unpacked(bytes);
    await using opened = await openAll(path, { identities, signal, onUnpacked });
    const onRead = (bytes: number, of: number) => progress.read(bytes, of);
    const verified = { members: 0, compared: 0, bytes: 0, images: 0 };
    for (const checkpoint of opened.containers) {
      const one = await verify(checkpoint, { signal, onRead });
      for (const key of ['members', 'compared', 'bytes', 'images'] as const) verified[key] += one[key];
    }
    return { path, sound: true, verified };
  } catch (error) {
    signal.throwIfAborted();
    const { reason, message, hint } = GantryError.from(error);
    return { path, sound: false, error: { reason, message, hint } };
  }
}

function textOf({ path, verified, error }: Verdict): string {
  if (verified === undefined)
    return `${path}: ${error?.reason === 'BAD_ARCHIVE' ? 'NOT SOUND' : 'not read'}: ${error?.message}`;
  const { members, compared, bytes, images } = verified;
  return `${path}: sound (${members} files, ${formatBytes(bytes)}; ${compared} compared with their sums, ${images} images decoded)`;
}

/** Errors: BAD_ARCHIVE, when one is not sound; else that of the first one that could not be read. */
function complain(verdicts: readonly Verdict[]): void {
  const errors = verdicts.flatMap(({ error }) => (error === undefined ? [] : [error]));
  const worst = errors.find(({ reason }) => reason === 'BAD_ARCHIVE') ?? errors[0];
  if (worst === undefined) return;
  const message =
    errors.length === 1 ? worst.message : `${errors.length} of ${verdicts.length} are not known to be sound`;
  throw new GantryError(worst.reason, message, { hint: worst.hint });
}
