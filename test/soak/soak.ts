import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { ExecaError } from 'execa';
import { labDown, labUp } from '../lab.ts';
import { LAB_NAME } from './plan.ts';
import { formatReport } from './report.ts';
import { soak } from './run.ts';

const EXIT = { failed: 1, usage: 2, interrupted: 130 };

interface Options {
  minutes: number;
  repository: string;
  json?: string;
}

class Interrupted extends Error {}

const command = new Command('node_modules/.bin/node test/soak/soak.ts')
  .description(
    'Whether a call ever fails that did not have to, while relay and containerd are killed. "make soak" runs it.',
  )
  .option('--minutes <number>', 'how long', minutes, 10)
  .option('--repository <folder>', 'test what was built there', join(import.meta.dirname, '../..'))
  .option('--json <file>', 'write the figures there, too')
  .addHelpText(
    'after',
    `
It starts a lab of one node with the real containerd, and two relays on passed sockets: one that is killed each 20 s
(stopped with SIGTERM each third time), and one that runs from the beginning to the end. A kubelet, a crictl and pods that
come and go call through both. containerd is killed each minute.

A call may fail only if it was in flight on a relay or at containerd when that was killed, if it took longer than a stopped
relay's drain timeout, or if its pod is not what it would be because of such a call. All else is an offence, and so is a
refused connection, a wrong answer, an error in the relay's log, and growth.

Needs root, and what "make build root" makes. A lab named "${LAB_NAME}" that is there already is removed first.
Exit codes: 0 no offence, 1 offences or failed, 2 wrong usage, 130 interrupted without an offence.`,
  )
  .exitOverride()
  .action(async (options: Options) => {
    process.exitCode = await run(options);
  });

// A reader that goes away must not keep the lab from being removed.
process.stdout.on('error', () => undefined);
process.stderr.on('error', () => undefined);
try {
  await command.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}
process.exit();

async function run({ minutes, json, repository }: Options): Promise<number> {
  const interrupted = untilInterrupted();
  const folder = await mkdtemp(join(tmpdir(), 'gantry-soak-'));
  try {
    console.error('starting a lab of one node, pods and relays');
    const lab = await labUp({ name: LAB_NAME, nodes: 1, suite: 'forky', services: ['containerd'] });
    interrupted.throwIfAborted();
    const figures = await soak({ lab, folder, repository, lengthMs: minutes * 60_000, interrupted });
    console.log(formatReport(figures));
    if (json !== undefined) await writeFile(json, `${JSON.stringify(figures, null, 2)}\n`);
    if (figures.offences.length > 0) return EXIT.failed;
    return figures.interrupted ? EXIT.interrupted : 0;
  } catch (error) {
    // What fails because of the interrupt is not worth telling.
    interrupted.throwIfAborted();
    throw error;
  } finally {
    await labDown(LAB_NAME);
    await rm(folder, { recursive: true, force: true });
  }
}

function minutes(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError('a number above 0');
  return value;
}

/** A signal ends the soak early, in order; a second one at once. */
function untilInterrupted(): AbortSignal {
  const controller = new AbortController();
  const interrupt = () => {
    if (controller.signal.aborted) {
      // The relays die with this process.
      console.error(`\nleft as it is; remove the lab with: hack/lab down --name ${LAB_NAME}`);
      process.exit(EXIT.interrupted);
    }
    console.error('\ninterrupted: ending calls and removing the lab');
    controller.abort(new Interrupted('interrupted'));
  };
  // Not `once`: execa takes a signal that nobody listens to any more as the end, and ends this process.
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, interrupt);
  return controller.signal;
}

/** Says what went wrong and gives the exit code. */
function report(error: unknown): number {
  // commander has already printed its own; 0 for --help.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT.usage;
  if (error instanceof Interrupted) return EXIT.interrupted;
  console.error(`\nFAILED: ${messageOf(error)}`);
  return EXIT.failed;
}

/** Of a program that failed, what it said itself: hack/lab names the cause and what to do next. */
function messageOf(error: unknown): string {
  if (error instanceof ExecaError) return String(error.stderr ?? '').trim() || error.shortMessage;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
