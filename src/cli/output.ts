import { InvalidArgumentError, Option } from 'commander';
import type { GantryError } from '../errors.ts';

export type Format = 'table' | 'json';

/** `-o table|json`, the same for every verb. */
export function outputOption(): Option {
  return new Option('-o, --output-format <format>', 'how to print the result')
    .choices(['table', 'json'])
    .default('table');
}

/** Columns as wide as their widest cell, two spaces between them. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** JSON as other tools expect it: 64-bit numbers as numbers, bytes as base64, nothing of the generated code's own. */
export function formatJson(value: unknown): string {
  return JSON.stringify(
    value,
    (key, field: unknown) => {
      if (key === '_unknownFields') return undefined;
      return typeof field === 'bigint' ? Number(field) : field;
    },
    2,
  );
}

/** An error on standard error: what happened, what to do next; as JSON when the result would have been. */
export function printError(error: GantryError, argv: readonly string[]): void {
  const { reason, message, hint, exitCode } = error;
  if (wantsJson(argv)) {
    console.error(formatJson({ error: { reason, message, hint, exitCode } }));
    return;
  }
  console.error(`gantry: ${message}`);
  if (hint !== '') console.error(`        ${hint}`);
  if (process.env.GANTRY_DEBUG && error.stack) console.error(error.stack);
}

function wantsJson(argv: readonly string[]): boolean {
  return argv.some(
    (word, index) =>
      word === '-ojson' ||
      word === '--output-format=json' ||
      (word === 'json' && /^(-o|--output-format)$/.test(argv[index - 1] ?? '')),
  );
}

export function parseCount(name: string, least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < least)
      throw new InvalidArgumentError(`${name} is a whole number from ${least}`);
    return value;
  };
}

/** What a command has come to: as JSON, or as its own text. */
export function printResult(format: Format, result: unknown, text: string): void {
  console.log(format === 'json' ? formatJson(result) : text);
}
