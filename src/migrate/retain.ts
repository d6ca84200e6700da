import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { ArchiveFile } from '../checkpoint/destination.ts';
import { imagesOf } from '../checkpoint/images.ts';
import { PodArchive, saveFiles, toSave } from '../checkpoint/save.ts';
import { exists, makePrivateFolder } from '../durable.ts';
import { GantryError, messageOf } from '../errors.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import type { Retained, SourceEntry } from './journal.ts';

const HOUR_MS = 60 * 60 * 1000;

/** Where the final states of pods are that have moved away. */
function folderOf(node: Node): string {
  return join(node.config.stateDir, 'retained');
}

/**
 * Keeps the state of a pod that has moved: an archive of the images that were sent (none, of one that has moved cold), and of
 * the files of its containers, which are still frozen, or have ended. Repeating it is fine. Never fails: the pod serves
 * elsewhere, and nothing is to hinder the source's end.
 *
 * @returns undefined when nothing is kept, which the log says
 */
export async function retain(
  node: Node,
  entry: SourceEntry,
  containers: readonly ContainerDetail[],
): Promise<Retained | undefined> {
  const { hours } = node.config.retention;
  if (hours === 0) return undefined;
  const archive = join(folderOf(node), `${entry.operation}.tar`);
  try {
    if (!(await exists(archive))) await write(node, entry, containers, archive);
    return { archive, bytes: (await stat(archive)).size, until: Date.now() + hours * HOUR_MS };
  } catch (error) {
    node.log.warn('state-not-retained', { operation: entry.operation, why: messageOf(error) });
    return undefined;
  }
}

async function write(
  node: Node,
  { operation, containers: wanted, processes = [], mode }: SourceEntry,
  containers: readonly ContainerDetail[],
  path: string,
): Promise<void> {
  if (containers.length !== wanted.length) throw new GantryError('NOT_FOUND', 'its containers have ended');
  await makePrivateFolder(folderOf(node));
  const { recipients } = node.config.retention;
  await using archive = await ArchiveFile.open(node, operation, path, { compression: 'none', recipients });
  const pod = await PodArchive.begin(archive, containers);
  const savedVolumes = new Set<string>();
  for (const [index, container] of containers.entries()) {
    const saving = await toSave(node, container, { hasShm: index === 0, savedVolumes });
    await pod.add(node, operation, container.name, async (destination) => {
      const how = mode === 'cold' ? ({ tcp: 'none', cold: true } as const) : ({ tcp: 'established' } as const);
      if (mode !== 'cold') await destination.given(imagesOf(node, operation, index));
      const dumped = { ...how, processes: processes[index] ?? 1 };
      await saveFiles(node, saving, dumped, destination, new AbortController().signal);
    });
  }
  await pod.finish();
}

/** Ends the retention of one: its address stays reserved. */
export async function expire(node: Node, entry: SourceEntry): Promise<SourceEntry> {
  const { retained, ...rest } = entry;
  const reserved: SourceEntry = { ...rest, state: 'reserved' };
  await node.journal.write(reserved);
  if (retained !== undefined) await rm(retained.archive, { force: true });
  return reserved;
}

/**
 * Works on a migration that this node was the source of, and nobody else does meanwhile.
 * Errors: NOT_FOUND, BUSY, those of the step.
 */
export async function alone<T>(node: Node, migration: string, step: (entry: SourceEntry) => Promise<T>): Promise<T> {
  const entry = node.journal.find('source', migration);
  if (entry === undefined) throw new GantryError('NOT_FOUND', `there is no migration ${migration} here`);
  if (node.busy.has(migration)) throw new GantryError('BUSY', `migration ${migration} is being worked on`);
  node.busy.add(migration);
  try {
    return await step(entry);
  } finally {
    node.busy.delete(migration);
  }
}

/** Pure: of those that are retained, who has been for long enough, and the oldest while all together are too large. */
export function overdue(entries: readonly SourceEntry[], now: number, mostBytes: number): SourceEntry[] {
  const retained = entries
    .filter(({ state }) => state === 'retained')
    .sort((one, other) => (other.retained?.until ?? 0) - (one.retained?.until ?? 0));
  let bytes = 0;
  return retained.filter((entry) => {
    bytes += entry.retained?.bytes ?? 0;
    return (entry.retained?.until ?? 0) <= now || (mostBytes > 0 && bytes > mostBytes);
  });
}

/** Archives that no entry speaks of any more. At the start only. */
export async function removeOrphans(node: Node): Promise<void> {
  const folder = folderOf(node);
  if (!(await exists(folder))) return;
  const known = node.journal
    .pending('source')
    .filter(({ state }) => ['committed', 'retained', 'reverting'].includes(state))
    .map(({ operation }) => `${operation}.tar`);
  for (const name of await readdir(folder)) if (!known.includes(name)) await rm(join(folder, name), { force: true });
}
