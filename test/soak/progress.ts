import { stderr } from 'node:process';
import type { Journal, Offence } from './journal.ts';

const MIB = 1024 * 1024;
const OFFENCES_SHOWN = 50;

/** Seconds since the load began: "+83.214 s". */
export function since(beganAt: number, moment: number): string {
  return `+${((moment - beganAt) / 1000).toFixed(3)} s`;
}

/** Says on standard error how it goes: in one line that is rewritten on a terminal, and otherwise each 10 s. */
export class Progress implements Disposable {
  readonly #timer: NodeJS.Timeout;
  #shown = 0;
  #left = 0;

  constructor(line: () => string) {
    const draw = () => stderr.write(stderr.isTTY ? `\r\x1b[K${line().slice(0, stderr.columns - 1)}` : `${line()}\n`);
    this.#timer = setInterval(draw, stderr.isTTY ? 500 : 10_000);
  }

  /** An offence, as soon as it is one. */
  offence({ at, relay, what, why, message, tookMs, nearest }: Offence, beganAt: number): void {
    if (this.#shown >= OFFENCES_SHOWN) {
      this.#left += 1;
      return;
    }
    this.#shown += 1;
    const wall = new Date(performance.timeOrigin + at).toISOString().slice(11, 23);
    const took = tookMs === undefined ? '' : `, after ${Math.round(tookMs)} ms`;
    this.#clear();
    stderr.write(`OFFENCE ${since(beganAt, at)} (${wall}) ${relay ?? ''} ${what}: ${why}${took}\n`);
    stderr.write(`        ${message}\n        ${nearest ?? 'no fault yet'}\n`);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#clear();
    if (this.#left > 0) stderr.write(`… and ${this.#left} more offences\n`);
  }

  #clear(): void {
    if (stderr.isTTY) stderr.write('\r\x1b[K');
  }
}

export function progressLine(
  journal: Journal,
  elapsedMs: number,
  totalMs: number,
  steady: { residentBytes: number; descriptors: number } | undefined,
): string {
  const killed = journal.faults.filter(({ kind }) => kind === 'containerd-killed').length;
  const holds = steady && `${(steady.residentBytes / MIB).toFixed(0)} MiB, ${steady.descriptors} fds`;
  return (
    `${clock(elapsedMs)} of ${clock(totalMs)}  ${journal.calls} calls, ${journal.hadToFail} had to fail, ` +
    `${journal.consequences} consequences, ${journal.offences.length} offences  relay ended ` +
    `${journal.faults.length - killed} times, containerd ${killed}  steady relay ${holds ?? 'not there'}`
  );
}

function clock(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  return `${String(Math.floor(seconds / 60)).padStart(2, '0')}:${String(seconds % 60).padStart(2, '0')}`;
}
