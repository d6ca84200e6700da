import { execa } from 'execa';
import { errnoOf, GantryError, type Reason } from '../errors.ts';

/** How a program that Gantry starts is run, and as what its failure is reported. */
export interface ProgramOptions {
  input?: string;
  signal?: AbortSignal;
  env?: Record<string, string>;
  /** In milliseconds; nothing waits for ever. */
  timeoutMs?: number;
  /** The reason of the error thrown when the program exits other than 0. */
  reason?: Reason;
  /** What errors call the program, when it is started through another one. */
  name?: string;
}

/** Runs a program to its end and returns what it printed; the one place where a program's failure becomes an error. */
export async function run(file: string, args: readonly string[], options: ProgramOptions = {}): Promise<string> {
  const { input, signal, env, timeoutMs = 30_000, reason = 'INTERNAL', name = file } = options;
  const result = await execa(file, args, {
    reject: false,
    timeout: timeoutMs,
    ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
    ...(signal === undefined ? {} : { cancelSignal: signal }),
    ...(env === undefined ? {} : { env }),
  });
  if (!result.failed) return result.stdout;
  if (result.isCanceled) throw new GantryError('CANCELLED', 'cancelled');
  const code = errnoOf(result.cause) ?? errnoOf(result);
  if (code === 'ENOENT') {
    throw new GantryError('INTERNAL', `${file} is not installed on this node`, { hint: `install ${file}` });
  }
  const why = result.timedOut
    ? `no end within ${timeoutMs} ms`
    : lines(result.stderr) || `exit code ${result.exitCode}`;
  throw new GantryError(why.includes('No space left on device') ? 'NO_SPACE' : reason, `${name}: ${why}`, {
    cause: result,
  });
}

/** Runs a program inside a network namespace named by a path such as /proc/PID/ns/net. */
export function runInNetwork(
  netns: string,
  file: string,
  args: readonly string[],
  options?: ProgramOptions,
): Promise<string> {
  return run('nsenter', [`--net=${netns}`, file, ...args], { ...options, name: file });
}

/** What a program said, in one line of a bearable length. */
function lines(text: string): string {
  return text
    .trim()
    .split(/\s*\n\s*/)
    .join('; ')
    .slice(0, 500);
}
