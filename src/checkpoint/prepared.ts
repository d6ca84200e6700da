import { mkdir, readdir, readFile, rename, rm, rmdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Node } from '../agent/node.ts';
import { exists, makePrivateFolder, removeDurably, writeDurably } from '../durable.ts';
import { errnoOf, messageOf } from '../errors.ts';
import { ContainerState } from '../gen/cri.ts';
import { PREPARED_SUFFIX, preparedFolder } from './prepared-folder.ts';

const VERSION = 1;
const INTERVAL_MS = 2000;
/** In CRIU's log, as CRIU writes it: from there the hook takes what the runtime says. */
const NOT_AFRESH = `(00.000000) Error (gantry:1): it comes from a checkpoint, and starts only through gantry's relay, with its agent\n`;

/** A container that was created from a checkpoint and not started yet. */
export interface Prepared {
  /** ID. */
  readonly container: string;
  readonly sandbox: string;
  /** Folder of its own with CRIU's images, in memory. */
  readonly images: string;
  /** How many come back. */
  readonly processes: number;
}

/** All of the node. One whose file cannot be read has no images: it does not start at all. */
export async function readPrepared(node: Node): Promise<Prepared[]> {
  const folder = preparedFolder(node.config.stateDir);
  const names = (await exists(folder)) ? await readdir(folder) : [];
  const known = names.filter((name) => name.endsWith(PREPARED_SUFFIX));
  const all = await Promise.all(known.map((name) => readOne(node, name.slice(0, -PREPARED_SUFFIX.length))));
  return all.filter((one) => one !== undefined);
}

/** Undefined for one that is forgotten at this moment. */
async function readOne(node: Node, container: string): Promise<Prepared | undefined> {
  const file = fileOf(node, container);
  try {
    const { version, ...one } = JSON.parse(await readFile(file, 'utf8')) as Prepared & { version: number };
    if (version !== VERSION) throw new Error(`it is of version ${version}, this program knows ${VERSION}`);
    return one;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    node.log.debug('prepared-unreadable', { file, reason: messageOf(error) });
    return { container, sandbox: '', images: join(node.config.imageDir, 'unreadable', container), processes: 0 };
  }
}

/** Makes it known, durably. */
export async function writePrepared(node: Node, prepared: Prepared): Promise<void> {
  await makePrivateFolder(preparedFolder(node.config.stateDir));
  await writeDurably(fileOf(node, prepared.container), `${JSON.stringify({ version: VERSION, ...prepared })}\n`);
}

/** Removes all that there is for its start. Idempotent. */
export async function forgetPrepared(node: Node, { container, images }: Prepared): Promise<void> {
  const { runDir } = node.config;
  await unguard(node, container);
  await rm(join(runDir, 'spent', container), { recursive: true, force: true });
  await rm(images, { recursive: true, force: true });
  // Of the whole pod: with the last of it.
  await rmdir(dirname(images)).catch(() => undefined);
  await removeDurably(fileOf(node, container));
}

/**
 * Has whoever starts the container behind the relay's back fail: it must never start afresh. A ticket for the OCI hook that
 * leads to no images.
 */
export async function guard({ config: { runDir } }: Node, container: string): Promise<void> {
  const ticket = join(runDir, 'tickets', container);
  const draft = `${ticket}.new`;
  await makePrivateFolder(join(runDir, 'tickets'));
  await makePrivateFolder(join(runDir, 'spent'));
  await rm(draft, { recursive: true, force: true });
  await mkdir(draft, { mode: 0o700 });
  await symlink('none', join(draft, 'checkpoint'));
  await writeFile(join(draft, 'options'), '');
  await writeFile(join(draft, 'criu.conf'), '');
  await writeFile(join(draft, 'restore.log'), NOT_AFRESH);
  await rename(draft, ticket);
}

export async function unguard({ config: { runDir } }: Node, container: string): Promise<void> {
  await rm(join(runDir, 'tickets', container), { recursive: true, force: true });
}

/** Forgets those that are gone or have been started. Those that an operation works on are left alone. */
export async function sweepPrepared(node: Node): Promise<void> {
  const all = await readPrepared(node);
  if (all.length === 0) return;
  const containers = new Map((await node.cri.listContainers()).map(({ id, state }) => [id, state]));
  for (const one of all) {
    if (node.busy.has(one.container) || containers.get(one.container) === ContainerState.CONTAINER_CREATED) continue;
    await forgetPrepared(node, one);
  }
}

/** That, and the addresses of sandboxes that are gone, until the signal. */
export async function keepSwept(node: Node, signal: AbortSignal): Promise<void> {
  const sandboxes = async () => new Set((await node.cri.listSandboxes(signal)).map(({ id }) => id));
  const sweep = () => Promise.all([sweepPrepared(node), node.moved.sweep(sandboxes)]);
  while (!signal.aborted) {
    await sweep().catch((error: unknown) => node.log.warn('sweep-failed', { reason: messageOf(error) }));
    await sleep(INTERVAL_MS, undefined, { signal }).catch(() => undefined);
  }
}

/**
 * What an agent does first with what the one before has prepared.
 *
 * @returns names of what belongs to it, in the folders of images and of tickets
 */
export async function recoverPrepared(node: Node): Promise<Set<string>> {
  await sweepPrepared(node);
  const kept = new Set<string>();
  for (const { container, sandbox, images } of await readPrepared(node)) {
    if (sandbox === '')
      node.log.error('prepared-lost', { container, reason: 'its file cannot be read: it will not start' });
    kept.add(container).add(images.split('/').at(-2) ?? '');
    // Somebody may have been about to start it: its ticket was taken, or was one that leads to its images.
    const ticket = join(node.config.runDir, 'tickets', container);
    if (await exists(join(ticket, 'gate'))) await unguard(node, container);
    if (!(await exists(ticket))) await guard(node, container);
  }
  return kept;
}

function fileOf({ config }: Node, container: string): string {
  return join(preparedFolder(config.stateDir), `${container}${PREPARED_SUFFIX}`);
}
