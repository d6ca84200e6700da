import { stderr, stdout } from 'node:process';
import { styleText } from 'node:util';

const LABEL_WIDTH = 10;

/**
 * Tells on standard output what has been done, and on standard error what is being done: in one line that is rewritten
 * on a terminal, and otherwise as a line of its own when it takes longer than a second.
 */
export class Narrator {
  say(text: string): void {
    stdout.write(`${text}\n`);
  }

  heading(text: string): void {
    this.say(`\n${styleText('bold', text, { stream: stdout })}`);
  }

  /** One line of a list: what it is about, and what there is to say. */
  item(label: string, text: string): void {
    this.say(row(label, text));
  }

  /** Runs one step; `done` says what came of it. */
  async step<Value>(
    label: string,
    doing: string,
    action: () => Promise<Value>,
    done: (value: Value, seconds: string) => string,
  ): Promise<Value> {
    const startedAt = performance.now();
    const seconds = () => `${((performance.now() - startedAt) / 1000).toFixed(1)} s`;
    const draw = () => stderr.write(`\r\x1b[K${row(label, `${doing}… ${seconds()}`)}`);
    const timer = stderr.isTTY
      ? setInterval(draw, 100)
      : setTimeout(() => stderr.write(`${row(label, `${doing}…`)}\n`), 1000);
    let value: Value;
    try {
      value = await action();
    } finally {
      clearInterval(timer);
      if (stderr.isTTY) stderr.write('\r\x1b[K');
    }
    this.item(label, done(value, seconds()));
    return value;
  }
}

function row(label: string, text: string): string {
  return `  ${label.padEnd(LABEL_WIDTH)}${text}`;
}
