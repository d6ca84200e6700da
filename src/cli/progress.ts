import type { Phase } from '../gen/gantry/v1/agent.ts';

/** One line that tells what goes on, rewritten in place on a terminal; a line for each finished phase elsewhere. */
export class ProgressLine {
  readonly #stream: NodeJS.WriteStream;
  readonly #running = new Map<string, number>();
  #bytes = 0;
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
    if (this.#stream.isTTY) this.#draw();
    else this.#stream.write(`${name} ${durationMs.toFixed(0)} ms\n`);
  }

  transferred(bytes: number): void {
    this.#bytes = bytes;
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
    const phases = [...this.#running].map(([name, since]) => `${name} ${((now - since) / 1000).toFixed(1)} s`);
    const sent = this.#bytes > 0 ? `, ${(this.#bytes / 1024 / 1024).toFixed(1)} MiB sent` : '';
    this.#stream.write(`\r\x1b[K${phases.join(', ')}${sent}`);
  }
}
