import { type CheckpointImages, readImages } from '../criu/checkpoint.ts';
import type { OpenFile } from '../criu/open-files.ts';
import type { Process } from '../criu/process.ts';
import { flatten } from '../criu/process-tree.ts';
import type { Socket } from '../criu/sockets.ts';
import { diffLayers, diffVolumes, type LayerDifference, type VolumeDifferences } from './diff-layer.ts';
import { diffMemory, diffShared, type MappingDifference, type MemoryDifference } from './diff-memory.ts';
import { type Facts, readFacts } from './facts.ts';
import type { Checkpoint } from './open.ts';
import { endpoint } from './text.ts';

export interface Named {
  readonly pid: number;
  readonly comm: string;
}

/** What was there in one of the two only. */
export interface Changes<T> {
  readonly added: readonly T[];
  readonly removed: readonly T[];
}

export interface FileOf extends Named {
  readonly fd: number;
  readonly kind: OpenFile['kind'];
  readonly path: string;
}

export interface SocketText {
  readonly kind: string;
  readonly state: string;
  readonly local: string;
  readonly peer: string;
}

/** From the first checkpoint to the second. */
export interface Difference {
  readonly from: Side;
  readonly to: Side;
  /** That they are not of one container, and the like. */
  readonly warnings: readonly string[];
  /** By PID and name: a number may have been given to another process meanwhile. */
  readonly processes: Changes<Named>;
  /** Of processes that are in both. */
  readonly files: Changes<FileOf>;
  readonly sockets: Changes<SocketText>;
  readonly memory: readonly (Named & MemoryDifference)[];
  readonly sharedMemory: readonly MappingDifference[];
  readonly layer: LayerDifference;
  readonly volumes: VolumeDifferences;
}

interface Side extends Pick<Facts, 'container' | 'pod' | 'created'> {
  readonly path: string;
}

/** Compares two checkpoints, memory and files by content, in bounded memory. Errors: BAD_ARCHIVE, UNSUPPORTED. */
export async function diff(before: Checkpoint, after: Checkpoint, signal?: AbortSignal): Promise<Difference> {
  const [from, to] = [await sideOf(before), await sideOf(after)];
  const [one, other] = [await readImages(before.images), await readImages(after.images)];
  const [old, now] = [flatten(one.processes), flatten(other.processes)];
  const processes = changes(old, now, nameOf);
  const byName = new Map(old.map((process) => [nameOf(process), process]));
  const both = now.flatMap((process) => {
    const earlier = byName.get(nameOf(process));
    return earlier === undefined ? [] : [{ earlier, process }];
  });
  const memory: (Named & MemoryDifference)[] = [];
  for (const { earlier, process } of both) {
    const sides = [
      { source: before.images, process: earlier },
      { source: after.images, process },
    ] as const;
    const found = await diffMemory(...sides, signal);
    if (found !== undefined) memory.push({ ...named(process), ...found });
  }
  const shared = [
    { source: before.images, images: one },
    { source: after.images, images: other },
  ] as const;
  const pageSize = memory[0]?.pageSize ?? 4096;
  return {
    from,
    to,
    warnings: warningsOf(from, to, one, other),
    processes: { added: processes.added.map(named), removed: processes.removed.map(named) },
    files: changes(
      both.flatMap(({ earlier }) => openFilesOf(earlier)),
      both.flatMap(({ process }) => openFilesOf(process)),
      ({ pid, fd, kind, path }) => `${pid} ${fd} ${kind} ${path}`,
    ),
    sockets: changes(one.sockets.map(textOf), other.sockets.map(textOf), (socket) => Object.values(socket).join(' ')),
    memory,
    sharedMemory: await diffShared(...shared, pageSize, signal),
    layer: await diffLayers(before.members, after.members, signal),
    volumes: await diffVolumes(before.members, after.members, signal),
  };
}

async function sideOf(checkpoint: Checkpoint): Promise<Side> {
  const { container, pod, created } = await readFacts(checkpoint);
  return { path: checkpoint.path, container, pod, created };
}

function warningsOf(from: Side, to: Side, one: CheckpointImages, other: CheckpointImages): string[] {
  const names = [from, to].map(({ pod, container }) => `${pod.namespace}/${pod.name}/${container.name}`);
  const warnings: string[] = [];
  if (names[0] !== names[1]) warnings.push(`they are of different containers: ${names.join(' and ')}`);
  if (one.architecture !== other.architecture)
    warnings.push(`they are of different architectures: ${one.architecture} and ${other.architecture}`);
  if (from.created !== '' && to.created !== '' && from.created > to.created)
    warnings.push(`${to.path} is older than ${from.path}: what it says was added has gone`);
  return warnings;
}

function named({ pid, comm }: Process): Named {
  return { pid, comm };
}

function nameOf({ pid, comm }: Process): string {
  return `${pid} ${comm}`;
}

/** Sockets are compared by their ends: their descriptors say little. */
function openFilesOf(process: Process): FileOf[] {
  return process.files
    .filter(({ kind }) => kind !== 'socket')
    .map(({ fd, kind, path, pipe }) => ({
      ...named(process),
      fd,
      kind,
      path: path ?? (pipe === undefined ? '' : `pipe ${pipe}`),
    }));
}

function textOf({ family, type, protocol, state, source, peer, path, peerInode }: Socket): SocketText {
  return {
    kind: protocol === undefined ? `${family} ${type}` : `${family} ${protocol}`,
    state,
    local: source === undefined ? (path ?? '') : endpoint(source),
    peer: peer === undefined ? (peerInode === undefined ? '' : `inode ${peerInode}`) : endpoint(peer),
  };
}

/** What one list has and the other has not, as often as it has it more often. */
function changes<T>(before: readonly T[], after: readonly T[], keyOf: (one: T) => string): Changes<T> {
  return { added: without(after, before, keyOf), removed: without(before, after, keyOf) };
}

function without<T>(list: readonly T[], other: readonly T[], keyOf: (one: T) => string): T[] {
  const left = new Map<string, number>();
  for (const one of other) left.set(keyOf(one), (left.get(keyOf(one)) ?? 0) + 1);
  return list.filter((one) => {
    const count = left.get(keyOf(one)) ?? 0;
    left.set(keyOf(one), count - 1);
    return count <= 0;
  });
}
