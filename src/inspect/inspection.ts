import { readArguments, readEnvironment, type Words } from '../criu/arguments.ts';
import { type CheckpointImages, readImages } from '../criu/checkpoint.ts';
import type { Mapping, ProcessMemory } from '../criu/memory.ts';
import type { OpenFile } from '../criu/open-files.ts';
import type { Process } from '../criu/process.ts';
import { flatten } from '../criu/process-tree.ts';
import type { AddressRange } from '../criu/read-memory.ts';
import type { Socket } from '../criu/sockets.ts';
import { type Facts, readFacts } from './facts.ts';
import type { Checkpoint } from './open.ts';
import { type InspectedVolume, readVolumes } from './volumes.ts';

/** Everything of one checkpoint that people are told, ready for JSON: addresses are text ("0x7ffd…"). */
export interface Inspection extends Facts, Omit<CheckpointImages, 'architecture' | 'criu' | 'processes' | 'sockets'> {
  readonly path: string;
  readonly packing: Checkpoint['packing'];
  /** Of the file, or of all files of the folder. */
  readonly sizeBytes: number;
  readonly images: CheckpointImages['criu'] & { readonly architecture: CheckpointImages['architecture'] };
  readonly processes: readonly InspectedProcess[];
  readonly sockets: readonly InspectedSocket[];
  readonly volumes: readonly InspectedVolume[];
}

export interface InspectedProcess extends Omit<Process, 'memory' | 'children'> {
  readonly commandLine: Words;
  /** Only when it was asked for: secrets are handed to programs in it. */
  readonly environment?: Words;
  readonly memory?: InspectedMemory;
  readonly children: readonly InspectedProcess[];
}

export interface InspectedMemory
  extends Omit<ProcessMemory, 'pageMap' | 'mappings' | 'argumentRange' | 'environmentRange'> {
  readonly argumentRange: TextRange;
  readonly environmentRange: TextRange;
  readonly mappings: readonly (Omit<Mapping, 'start' | 'end'> & TextRange)[];
}

interface TextRange {
  readonly start: string;
  readonly end: string;
}

export interface InspectedSocket extends Socket {
  /** Descriptors that stand for it. */
  readonly heldBy: readonly { readonly pid: number; readonly fd: number }[];
}

/** Errors: BAD_ARCHIVE. */
export async function inspect(
  checkpoint: Checkpoint,
  { environment = false, signal }: { environment?: boolean; signal?: AbortSignal } = {},
): Promise<Inspection> {
  const { architecture, criu, processes, sockets, ...images } = await readImages(checkpoint.images);
  const facts = await readFacts(checkpoint);
  return {
    path: checkpoint.path,
    packing: checkpoint.packing,
    sizeBytes: checkpoint.sizeBytes,
    ...facts,
    architecture: facts.architecture || architecture.toLowerCase(),
    images: { ...criu, architecture },
    ...images,
    processes: await Promise.all(processes.map((process) => inspectProcess(checkpoint, process, environment))),
    sockets: withHolders(sockets, flatten(processes)),
    volumes: await readVolumes(checkpoint, signal),
  };
}

async function inspectProcess(
  checkpoint: Checkpoint,
  process: Process,
  environment: boolean,
): Promise<InspectedProcess> {
  const { memory, children, ...rest } = process;
  return {
    ...rest,
    commandLine: await readArguments(checkpoint.images, process),
    ...(environment ? { environment: await readEnvironment(checkpoint.images, process) } : {}),
    ...(memory === undefined ? {} : { memory: inspectMemory(memory) }),
    children: await Promise.all(children.map((child) => inspectProcess(checkpoint, child, environment))),
  };
}

function inspectMemory(memory: ProcessMemory): InspectedMemory {
  const { pageMap: _, mappings, argumentRange, environmentRange, ...rest } = memory;
  return {
    ...rest,
    argumentRange: textRange(argumentRange),
    environmentRange: textRange(environmentRange),
    mappings: mappings.map((mapping) => ({ ...mapping, ...textRange(mapping) })),
  };
}

function textRange({ start, end }: AddressRange): TextRange {
  return { start: hex(start), end: hex(end) };
}

export function hex(address: bigint): string {
  return `0x${address.toString(16)}`;
}

function withHolders(sockets: readonly Socket[], processes: readonly Process[]): InspectedSocket[] {
  const holders = new Map<number, { pid: number; fd: number }[]>();
  for (const { pid, files } of processes) {
    for (const { id, fd, kind } of files) {
      if (kind !== 'socket') continue;
      const known = holders.get(id);
      if (known === undefined) holders.set(id, [{ pid, fd }]);
      else known.push({ pid, fd });
    }
  }
  return sockets.map((socket) => ({ ...socket, heldBy: holders.get(socket.id) ?? [] }));
}

/** As one line: its words, those with spaces in them quoted; the short name in brackets when it has none. */
export function commandLine({ commandLine: line, comm }: InspectedProcess): string {
  if ('missing' in line || line.words.length === 0) return `[${comm}]`;
  // A title that the process has given itself is no command with spaces in its name.
  if (line.words.length === 1) return line.words[0] ?? '';
  return line.words.map((word) => (/[\s"'\\]|^$/.test(word) ? JSON.stringify(word) : word)).join(' ');
}

/** The same process's open files, without the sockets. */
export function filesOf({ files }: { readonly files: readonly OpenFile[] }): readonly OpenFile[] {
  return files.filter(({ kind }) => kind !== 'socket');
}
