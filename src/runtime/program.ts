import { pipeline } from 'node:stream/promises';
import { execa, type Result } from 'execa';
import { errnoOf, GantryError, type Reason } from '../errors.ts';

/** How a program that Gantry starts is run, and as what its failure is reported. */
export interface ProgramOptions {
  input?: string;
  signal?: AbortSignal;
  env?: Record<string, string>;
  cwd?: string;
  /** In milliseconds; nothing waits for ever. */
  timeoutMs?: number;
  /** The reason of the error thrown when the program exits other than 0. */
  reason?: Reason;
  /** What errors call the program, when it is started through another one. */
  name?: string;
}

/** Runs a program to its end and returns what it printed; the one place where a program's failure becomes an error. */
export async function run(file: string, args: readonly string[], options: ProgramOptions = {}): Promise<string> {
  const { input, signal, env, cwd, timeoutMs = 30_000, reason = 'INTERNAL', name = file } = options;
  const result = await execa(file, args, {
    reject: false,
    timeout: timeoutMs,
    ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
    ...(signal === undefined ? {} : { cancelSignal: signal }),
    ...(env === undefined ? {} : { env }),
    ...(cwd === undefined ? {} : { cwd }),
  });
  if (!result.failed) return result.stdout;
  throw failureOf(result, result.stderr, { file, name, timeoutMs, reason });
}

function failureOf(
  result: Pick<Result, 'isCanceled' | 'cause' | 'timedOut' | 'exitCode'>,
  stderr: string,
  { file, name, timeoutMs, reason }: { file: string; name: string; timeoutMs: number; reason: Reason },
): GantryError {
  if (result.isCanceled) return new GantryError('CANCELLED', 'cancelled');
  const code = errnoOf(result.cause) ?? errnoOf(result);
  if (code === 'ENOENT') {
    return new GantryError('INTERNAL', `${file} is not installed on this node`, { hint: `install ${file}` });
  }
  const why = result.timedOut ? `no end within ${timeoutMs} ms` : lines(stderr) || `exit code ${result.exitCode}`;
  return new GantryError(why.includes('No space left on device') ? 'NO_SPACE' : reason, `${name}: ${why}`, {
    cause: result,
  });
}

/** What a program prints, while it runs. It ends with an error when the program fails; a reader that stops ends the program. */
export async function* outputOf(file: string, args: readonly string[], options: StreamOptions): AsyncGenerator<Buffer> {
  const { program, ended } = streaming(file, args, options);
  try {
    yield* program.stdout as AsyncIterable<Buffer>;
    await ended();
  } finally {
    program.kill();
  }
}

/** Gives a program what it reads. Errors: those of the content first, then the program's. */
export async function runOn(
  content: AsyncIterable<Uint8Array>,
  file: string,
  args: readonly string[],
  options: StreamOptions,
): Promise<void> {
  const { program, ended } = streaming(file, args, options);
  const fed = pipeline(content, program.stdin).then(
    () => undefined,
    (error: unknown) => {
      program.kill();
      // It reads no more: its own reason is the better one.
      return errnoOf(error) === 'EPIPE' || errnoOf(error) === 'ERR_STREAM_PREMATURE_CLOSE' ? undefined : error;
    },
  );
  const [failure, outcome] = await Promise.all([
    fed,
    ended().then(
      () => undefined,
      (error: unknown) => error,
    ),
  ]);
  if (failure !== undefined) throw failure;
  if (outcome !== undefined) throw outcome;
}

type StreamOptions = Pick<ProgramOptions, 'signal' | 'reason'> & { timeoutMs: number };

function streaming(file: string, args: readonly string[], { signal, reason = 'INTERNAL', timeoutMs }: StreamOptions) {
  const program = execa(file, args, {
    reject: false,
    buffer: { stdout: false },
    encoding: 'buffer',
    stdin: 'pipe',
    timeout: timeoutMs,
    ...(signal === undefined ? {} : { cancelSignal: signal }),
  });
  const ended = async (): Promise<void> => {
    const result = await program;
    const stderr = Buffer.from(result.stderr).toString();
    if (result.failed) throw failureOf(result, stderr, { file, name: file, timeoutMs, reason });
  };
  return { program, ended };
}

/** Runs a program inside a network namespace named by a path such as /proc/PID/ns/net. */
export function runInNetwork(
  netns: string,
  file: string,
  args: readonly string[],
  options?: ProgramOptions,
): Promise<string> {
  return run('nsenter', [`--net=${netns}`, file, ...args], { name: file, ...options });
}

/** What a program said, in one line of a bearable length. */
function lines(text: string): string {
  return text
    .trim()
    .split(/\s*\n\s*/)
    .join('; ')
    .slice(0, 500);
}
