import type { Event, Phase, Transferred } from '../gen/gantry/v1/agent.ts';
import { formatBytes } from '../inspect/units.ts';

/** Where there is no terminal, a transfer is told of so often; a short one not at all. */
const LINE_EVERY_MS = 500;
/** Before that a rate says little. */
const RATE_AFTER_MS = 200;

/**
 * How far a transfer is, at what rate, and how long it will take where its size is known: "send memory 48.0 MiB of
 * 512.0 MiB, 96.0 MiB/s, 5 s left".
 */
export function transferText({ phase, phaseBytes, phaseTotal }: Transferred, elapsedMs: number): string {
  const moved = Number(phaseBytes);
  // A stream has more than what it is made of.
  const total = phaseTotal === 0n ? 0 : Math.max(Number(phaseTotal), moved);
  const perMs = moved / elapsedMs;
  return [
    `${phase} ${formatBytes(moved)}${total > 0 ? ` of ${formatBytes(total)}` : ''}`,
    ...(elapsedMs < RATE_AFTER_MS ? [] : [`${formatBytes(Math.round(perMs * 1000))}/s`]),
    ...(elapsedMs < RATE_AFTER_MS || total === 0 || moved === 0
      ? []
      : [`${Math.ceil((total - moved) / perMs / 1000)} s left`]),
  ].join(', ');
}

/** One line that tells what goes on, rewritten in place on a terminal; a line for each finished phase elsewhere. */
export class ProgressLine {
  readonly #stream: NodeJS.WriteStream;
  readonly #running = new Map<string, number>();
  readonly #transfers = new Map<string, Transferred>();
  #bytes = 0;
  #lineAt = 0;
  #lastWhy = '';
  #timer: NodeJS.Timeout | undefined;

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
    if (stream.isTTY) this.#timer = setInterval(() => this.#draw(), 100);
  }

  begin(name: string): void {
    this.#running.set(name, performance.now());
    this.#draw();
  }

  end({ name, durationMs }: Phase): void {
    this.#running.delete(name);
    this.#transfers.delete(name);
    if (this.#stream.isTTY) this.#draw();
    else this.#stream.write(`${name} ${durationMs.toFixed(0)} ms\n`);
  }

  transferred(transferred: Transferred): void {
    const { phase, bytesSent } = transferred;
    this.#bytes = Number(bytesSent);
    const since = this.#running.get(phase);
    if (since === undefined) return;
    this.#transfers.set(phase, transferred);
    const now = performance.now();
    if (this.#stream.isTTY || now - since < LINE_EVERY_MS || now - this.#lineAt < LINE_EVERY_MS) return;
    this.#lineAt = now;
    this.#stream.write(`${transferText(transferred, now - since)}\n`);
  }

  /**
   * An operation's event, but for its result.
   *
   * @param of goes before each name, where several are watched together
   */
  show({ phaseStarted, phase, transferred, retrying }: Event, of = ''): void {
    if (phaseStarted) this.begin(of + phaseStarted.name);
    else if (phase) this.end({ ...phase, name: of + phase.name });
    else if (transferred) this.transferred({ ...transferred, phase: of + transferred.phase });
    else if (retrying && retrying.why !== this.#lastWhy) {
      this.#lastWhy = retrying.why;
      this.note(`${of}${retrying.what} has not succeeded yet, and is tried again: ${retrying.why}`);
    }
  }

  /** A line that stays. */
  note(text: string): void {
    if (this.#stream.isTTY) this.#stream.write('\r\x1b[K');
    this.#stream.write(`${text}\n`);
  }

  clear(): void {
    clearInterval(this.#timer);
    if (this.#stream.isTTY) this.#stream.write('\r\x1b[K');
  }

  #draw(): void {
    if (!this.#stream.isTTY) return;
    const now = performance.now();
    const phases = [...this.#running].map(([name, since]) => {
      const transfer = this.#transfers.get(name);
      if (transfer !== undefined) return transferText(transfer, now - since);
      return `${name} ${((now - since) / 1000).toFixed(1)} s`;
    });
    const sent = this.#bytes > 0 ? `, ${(this.#bytes / 1024 / 1024).toFixed(1)} MiB sent` : '';
    this.#stream.write(`\r\x1b[K${phases.join(', ')}${sent}`);
  }
}
