import type { Process } from './process.ts';
import { type AddressRange, type Memory, readMemory } from './read-memory.ts';
import type { ImageSource } from './source.ts';

/** Text of a process's memory, or why there is none: `missing` is for people. */
export type Words = { readonly words: readonly string[] } | Missing;
export interface Missing {
  readonly missing: string;
}

const WHERE = {
  parent: 'not in this checkpoint: it is in the one before',
  lazy: 'not in this checkpoint: it stayed with the process',
  absent: 'not in this checkpoint',
} as const satisfies Record<Extract<Memory, { missing: unknown }>['missing'], string>;

/**
 * The command line as /proc/PID/cmdline shows it, read from the process's memory. A process may have written another
 * title there: when it has left no zero at the end, the title goes on where its environment was (Linux's
 * get_mm_cmdline). Empty words at the end are left out.
 *
 * Errors: BAD_ARCHIVE, and those of the source.
 */
export async function readArguments(source: ImageSource, process: Process): Promise<Words> {
  const { argumentRange: range, environmentRange: next } = process.memory ?? {};
  const text = await readText(source, process, range);
  if (typeof text !== 'string') return text;
  if (text === '') return { words: [] };
  if (text.endsWith('\0')) return { words: text.replace(/\0+$/, '').split('\0') };
  const rest = next?.start === range?.end ? await readText(source, process, next) : '';
  return { words: [`${text}${typeof rest === 'string' ? rest : ''}`.split('\0', 1)[0] ?? ''] };
}

/**
 * The environment ("NAME=value") with which the process began, as long as it has not written something else there: some
 * programs do, to have a longer title. Errors: the same.
 */
export async function readEnvironment(source: ImageSource, process: Process): Promise<Words> {
  const text = await readText(source, process, process.memory?.environmentRange);
  if (typeof text !== 'string') return text;
  const words = text.split('\0').filter((word) => word !== '');
  return text !== '' && words.length === 0 ? { missing: 'the process has overwritten it' } : { words };
}

async function readText(source: ImageSource, { memory }: Process, range?: AddressRange): Promise<string | Missing> {
  if (memory === undefined || range === undefined) return { missing: 'the process has ended, it has no memory' };
  if (range.end <= range.start) return '';
  if (memory.pageMap === undefined) return { missing: WHERE.absent };
  const read = await readMemory(source, memory.pageMap, range);
  return 'missing' in read ? { missing: WHERE[read.missing] } : read.bytes.toString('utf8');
}
