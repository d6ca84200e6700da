import { lstat, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { identityOf, parentOf } from '../archive/chain.ts';
import { CONFIG, IMAGES, isKnown, MANIFEST, SPEC } from '../archive/layout.ts';
import { archiveIn } from '../archive/oci.ts';
import { contentOf } from '../archive/reader.ts';
import { TarReader } from '../archive/tar.ts';
import { GantryError, messageOf } from '../errors.ts';
import { type Facts, readFacts } from './facts.ts';
import { openRegular, type Packing, packingIn } from './form.ts';
import { openAll } from './open.ts';
import { incompleteness, verify } from './verify.ts';

/** Something in a folder that is a checkpoint, or was to become one. */
export interface Found {
  readonly name: string;
  readonly path: string;
  readonly packing: Packing | 'folder';
  /** Of the file, or of all members in the folder. */
  readonly sizeBytes: number;
  readonly modified: Date;
  /**
   * "whole": every member is there, in its size; "sound": everything was read, too; "unread": nobody has looked;
   * "unfinished": it has the name of one that is being written.
   */
  readonly state: 'whole' | 'sound' | 'unread' | 'damaged' | 'unfinished';
  /** Of one that is damaged or unread. */
  readonly why: string;
  /** Whose it is, as far as it was read. */
  readonly facts?: Facts;
  /** Of a folder: its parent's path, if that is in the same place. */
  readonly parent?: string;
  /** Of a folder: something in it that no checkpoint has, and that somebody must have put there. */
  readonly stranger?: string;
}

export interface SurveyOptions {
  /** "headers": what is compressed or encrypted stays unread; "manifests": it is read through; "everything": and verified. */
  readonly depth: 'headers' | 'manifests' | 'everything';
  readonly identities?: readonly string[];
  readonly signal?: AbortSignal | undefined;
}

export interface Survey {
  readonly found: readonly Found[];
  /** Names of what is no checkpoint. */
  readonly others: readonly string[];
}

const UNFINISHED = '.partial';
/** What gantry checkpoint leaves in a folder beside the members. */
const LEFT_BY_DUMP = new Set([IMAGES, 'criu.conf']);
const IN_LAYOUT = new Set(['oci-layout', 'index.json', 'blobs']);
const TELLS = new Set([MANIFEST, CONFIG, SPEC]);

/** What of a folder's entries are checkpoints, in the order of their names. Errors: NOT_FOUND, for the folder; CANCELLED. */
export async function survey(folder: string, options: SurveyOptions): Promise<Survey> {
  const names = await readdir(folder).catch((error: unknown) => {
    throw new GantryError('NOT_FOUND', `cannot read the folder ${folder}: ${messageOf(error)}`, { cause: error });
  });
  const found: Found[] = [];
  const others: string[] = [];
  for (const name of names.sort()) {
    options.signal?.throwIfAborted();
    const one = await recognise(folder, name, options);
    if (one === undefined) others.push(name);
    else found.push(one);
  }
  return { found: await withParents(found), others };
}

async function withParents(found: readonly Found[]): Promise<Found[]> {
  const folders = new Map<string | undefined, string>();
  for (const { path, packing } of found)
    if (packing === 'folder') folders.set(await identityOf(path).catch(() => undefined), path);
  return await Promise.all(
    found.map(async (one) => {
      const identity = one.packing === 'folder' ? await parentOf(one.path) : undefined;
      const parent = identity === undefined ? undefined : folders.get(identity);
      return parent === undefined ? one : { ...one, parent };
    }),
  );
}

async function recognise(folder: string, name: string, options: SurveyOptions): Promise<Found | undefined> {
  const path = join(folder, name);
  const stats = await lstat(path).catch(() => undefined);
  if (stats === undefined) return undefined;
  const archive = stats.isDirectory() ? await archiveIn(path).catch(() => undefined) : path;
  const packing: Found['packing'] | undefined = archive === undefined ? 'folder' : await packingAt(archive);
  if (packing === undefined || !(await beginsAsCheckpoint(archive ?? path, packing))) return undefined;
  const { size } = archive === undefined ? stats : await stat(archive);
  const stranger = stats.isDirectory() ? await strangerIn(path, packing === 'folder') : undefined;
  const plain = {
    ...{ name, path, packing, sizeBytes: size, modified: stats.mtime },
    ...(stranger === undefined ? {} : { stranger }),
  };
  if (name.endsWith(UNFINISHED))
    return { ...plain, state: 'unfinished', why: 'it is being written, or was left behind' };
  const isSealed = packing === 'encrypted' && (options.identities ?? []).length === 0;
  const isPacked = packing !== 'folder' && packing !== 'plain';
  if (isSealed || (isPacked && options.depth === 'headers')) {
    return { ...plain, state: 'unread', why: packing === 'encrypted' ? 'it is encrypted' : 'it is compressed' };
  }
  return { ...plain, ...(await judge(path, isPacked, options)) };
}

/** @param hasMembers else it is an OCI image layout */
async function strangerIn(folder: string, hasMembers: boolean): Promise<string | undefined> {
  const names = await readdir(folder).catch((): string[] => []);
  return names.find((name) => !(hasMembers ? LEFT_BY_DUMP.has(name) || isKnown(name) : IN_LAYOUT.has(name)));
}

async function judge(
  path: string,
  isPacked: boolean,
  { depth, identities = [], signal }: SurveyOptions,
): Promise<Pick<Found, 'state' | 'why' | 'facts'> & { sizeBytes?: number }> {
  let facts: Facts | undefined;
  const keeps = depth === 'everything' ? undefined : (name: string) => TELLS.has(name);
  try {
    await using opened = await openAll(path, { identities, signal, keeps });
    let sizeBytes = 0;
    for (const checkpoint of opened.containers) {
      const own = await readFacts(checkpoint);
      // Of a pod the names of all its containers.
      const name = [facts?.container.name, own.container.name].filter(Boolean).join(',');
      facts = { ...own, container: { ...own.container, name } };
      sizeBytes = checkpoint.sizeBytes;
      // Of one that was read through only for its manifest the members are gone.
      const missing = isPacked && depth === 'manifests' ? undefined : incompleteness(checkpoint);
      if (missing !== undefined) return { facts, sizeBytes, state: 'damaged', why: missing };
      if (depth === 'everything') await verify(checkpoint, { signal });
    }
    const whose = facts === undefined ? { sizeBytes } : { facts, sizeBytes };
    return { ...whose, state: depth === 'everything' ? 'sound' : 'whole', why: '' };
  } catch (error) {
    signal?.throwIfAborted();
    const { reason, message } = GantryError.from(error);
    const state = reason === 'BAD_ARCHIVE' ? 'damaged' : 'unread';
    return { state, why: message, ...(facts === undefined ? {} : { facts }) };
  }
}

async function packingAt(path: string): Promise<Packing | undefined> {
  try {
    await using file = await openRegular(path, false);
    return await packingIn(file);
  } catch {
    // Who may not read it cannot tell.
    return undefined;
  }
}

/** Whether the first member is one that a checkpoint has; of what is encrypted nobody can tell. */
async function beginsAsCheckpoint(path: string, packing: Packing | 'folder'): Promise<boolean> {
  if (packing === 'encrypted') return true;
  if (packing === 'folder') return isFolderOfCheckpoint(path);
  const bytes = contentOf(path);
  try {
    const first = await new TarReader(bytes, path).next();
    const name = first?.name.replace(/^(\.\/)+/, '').replace(/\/$/, '') ?? '';
    // Podman's begin with the folder that was packed.
    return name === IMAGES || isKnown(name) || (name === '' && first?.type === 'folder');
  } catch (error) {
    if (error instanceof GantryError) return false;
    throw error;
  } finally {
    await bytes.return(undefined);
  }
}

async function isFolderOfCheckpoint(path: string): Promise<boolean> {
  const names = await readdir(path).catch((): string[] => []);
  return names.includes(MANIFEST) && names.includes(IMAGES);
}
