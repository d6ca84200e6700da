const SIZES = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
const BYTES: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };
const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

/** "12.3 MiB". */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < SIZES.length - 1; unit++) value /= 1024;
  return `${unit === 0 ? value : value.toFixed(1)} ${SIZES[unit]}`;
}

/** Of microseconds. */
export function formatUs(us: number): string {
  return `${(us / 1000).toFixed(us < 10_000 ? 1 : 0)} ms`;
}

/** "10G", "1.5M", "4096"; powers of 1024. undefined for what is none. */
export function parseBytes(text: string): number | undefined {
  const [, number, unit] = /^(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?$/i.exec(text) ?? [];
  return number === undefined ? undefined : Math.floor(Number(number) * (BYTES[(unit ?? '').toLowerCase()] ?? 1));
}

/** "7d", "12h", "90m", "30s", "2w", in milliseconds. undefined for what is none. */
export function parseDuration(text: string): number | undefined {
  const [, number, unit] = /^(\d+)([smhdw])$/.exec(text) ?? [];
  return number === undefined ? undefined : Number(number) * (SECONDS[unit ?? ''] ?? 0) * 1000;
}

/** Text that somebody else has written, for a terminal: what would move its cursor, or change it, is shown as a number. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu, (character) => {
    const code = character.codePointAt(0) ?? 0;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`;
  });
}

export function sum(numbers: Iterable<number>): number {
  let total = 0;
  for (const number of numbers) total += number;
  return total;
}
