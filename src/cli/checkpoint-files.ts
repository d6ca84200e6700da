import { readFile } from 'node:fs/promises';
import { Option } from 'commander';
import { GantryError, messageOf } from '../errors.ts';
import type { Table } from '../inspect/text.ts';
import { formatBytes } from '../inspect/units.ts';
import { formatTable } from './output.ts';

/*
 * What the verbs have in common that read checkpoints themselves, without an agent.
 */

export const DEFAULT_FOLDER = '/var/lib/gantry/checkpoints';

export function identityOption(): Option {
  return new Option('--identity <file>', 'key of age that an encrypted archive was made for; may be repeated')
    .argParser((value: string, all: string[]) => [...all, value])
    .default([], 'none');
}

/** The keys in files as age-keygen writes them: a key a line, beside comments. Errors: USAGE. */
export async function identitiesIn(files: readonly string[]): Promise<string[]> {
  const texts = await Promise.all(
    files.map((file) =>
      readFile(file, 'utf8').catch((error: unknown) => {
        throw new GantryError('USAGE', `cannot read the key ${file}: ${messageOf(error)}`, { cause: error });
      }),
    ),
  );
  return texts
    .flatMap((text) => text.split('\n'))
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Runs something that Ctrl-C ends: what it has unpacked is removed first. A second one ends the process at once. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const interrupt = () => controller.abort(new GantryError('CANCELLED', 'cancelled'));
  for (const name of SIGNALS) process.once(name, interrupt);
  try {
    return await work(controller.signal);
  } finally {
    for (const name of SIGNALS) process.off(name, interrupt);
  }
}

const QUIET_MS = 1000;
const TERMINAL_MS = 100;
const FILE_MS = 10_000;

/** Says how far something is that takes longer than a second: in place on a terminal, a line now and then elsewhere. */
export class FileProgress implements Disposable {
  readonly #what: string;
  readonly #stream: NodeJS.WriteStream;
  #next = performance.now() + QUIET_MS;
  #unpacked = 0;
  #isDrawn = false;

  constructor(what: string, stream: NodeJS.WriteStream = process.stderr) {
    this.#what = what;
    this.#stream = stream;
  }

  unpacked(bytes: number): void {
    this.#unpacked += bytes;
    this.#say(() => `unpacked ${formatBytes(this.#unpacked)}`);
  }

  read(bytes: number, of: number): void {
    this.#say(() => `read ${formatBytes(bytes)} of ${formatBytes(of)}`);
  }

  /** Before something else is printed. */
  clear(): void {
    if (this.#isDrawn && this.#stream.isTTY) this.#stream.write('\r\x1b[K');
    this.#isDrawn = false;
  }

  [Symbol.dispose](): void {
    this.clear();
  }

  #say(text: () => string): void {
    const now = performance.now();
    if (now < this.#next) return;
    this.#next = now + (this.#stream.isTTY ? TERMINAL_MS : FILE_MS);
    this.#isDrawn = true;
    const line = `${this.#what}: ${text()}`;
    this.#stream.write(this.#stream.isTTY ? `\r\x1b[K${line}` : `${line}\n`);
  }
}

/** Tables below each other, each under its title. */
export function formatTables(tables: readonly Table[]): string {
  return tables
    .map(({ title, rows }) => [
      ...(title === undefined ? [] : [title]),
      ...(rows.length > 0 ? [formatTable(rows)] : []),
    ])
    .map((lines) => lines.join('\n'))
    .join('\n\n');
}
