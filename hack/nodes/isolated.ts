import { readFile } from 'node:fs/promises';
import { execa } from 'execa';
import { ifPresent, LabError } from './failure.ts';

/**
 * Runs a shell script that fills a folder, in mount and PID namespaces of its own: when it or we are killed, every
 * process and mount it made goes with them, and nothing writes to the folder any more. What it prints goes into a log.
 */
export async function isolated(
  script: string,
  args: readonly string[],
  { log, what, signal, hint = '' }: { log: string; what: string; signal: AbortSignal; hint?: string },
): Promise<void> {
  const result = await execa(
    'setpriv',
    [
      ...['--pdeathsig', 'KILL', 'unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc'],
      ...['sh', '-euc', `log=$1; shift; exec >"$log" 2>&1\n${script}`, 'sh', log, ...args],
    ],
    {
      reject: false,
      stdin: 'ignore',
      timeout: 15 * 60_000,
      forceKillAfterDelay: 1000,
      cancelSignal: signal,
    },
  );
  signal.throwIfAborted();
  if (!result.failed) return;
  const said = (await ifPresent(readFile(log, 'utf8'), '')).trim().split('\n').slice(-5).join('\n  ');
  throw new LabError(`${what} failed:\n  ${said}`, { hint: `${hint === '' ? '' : `${hint}; `}read ${log}` });
}
