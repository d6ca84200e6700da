import { execa } from 'execa';
import { LabError } from './failure.ts';

export interface ProgramOptions {
  signal?: AbortSignal;
  /** In milliseconds; nothing waits for ever. */
  timeoutMs?: number;
  input?: string;
}

/** Runs a program to its end and returns what it printed; a failure carries the program's own last words. */
export async function run(file: string, args: readonly string[], options: ProgramOptions = {}): Promise<string> {
  const { signal, timeoutMs = 30_000, input } = options;
  const result = await execa(file, args, {
    reject: false,
    timeout: timeoutMs,
    ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
    ...(signal === undefined ? {} : { cancelSignal: signal }),
  });
  if (!result.failed) return result.stdout;
  signal?.throwIfAborted();
  const why = result.timedOut ? `no end within ${timeoutMs} ms` : result.stderr.trim() || result.shortMessage;
  throw new LabError(`${file} ${args.slice(0, 3).join(' ')}: ${why}`, { cause: result });
}
