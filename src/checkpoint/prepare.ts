import { readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { IMAGES } from '../archive/layout.ts';
import { makePrivateFolder } from '../durable.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerConfig, PodSandboxConfig, type PodSandboxMetadata } from '../gen/cri.ts';
import type { PreparePodRequest, Result } from '../gen/gantry/v1/agent.ts';
import type { RestoreEntry } from '../migrate/journal.ts';
import { untilDone } from '../migrate/retry.ts';
import { writableLayer } from '../runtime/containerd.ts';
import type { SandboxDetail } from '../runtime/cri.ts';
import { checkExpected, pairUp } from './expected.ts';
import { checkFits, thisHost } from './fits.ts';
import { shareOutIpc } from './ipc.ts';
import { checkRestorableWith } from './preflight.ts';
import { forgetPrepared, guard, readPrepared, unguard, writePrepared } from './prepared.ts';
import { POD_ARCHIVE } from './prepared-folder.ts';
import { removeRestored } from './restore.ts';
import { checkRights } from './rights.ts';
import { Saved } from './saved.ts';
import { shmFolder, volumesOf } from './volumes.ts';

/**
 * Makes a sandbox, and in it the containers of a pod's checkpoint with all their files. None of them is started: their
 * images wait, in memory, for {@link startPrepared}. A failure leaves nothing.
 */
export async function preparePod(node: Node, request: PreparePodRequest, operation: Operation): Promise<Result> {
  const sandboxConfig = decoded(PodSandboxConfig, request.sandboxConfig);
  const { metadata } = sandboxConfig;
  if (metadata === undefined || metadata.uid === '')
    throw new GantryError('USAGE', 'which pod? its metadata is missing');
  const configs = request.containerConfigs.map((bytes) => decoded(ContainerConfig, bytes));
  const all = await operation.phase('read', () =>
    Saved.openAll(node, operation.id, join(request.path, POD_ARCHIVE), {
      signal: operation.signal,
      leavesPages: false,
    }),
  );
  await using _opened = all[0];
  const pairs = pairUp(
    all.map((saved) => ({ name: saved.manifest.container.name, saved })),
    configs,
  ).map(({ saved: { saved }, config }): Pair => ({ saved, config }));
  await operation.phase('check', () => check(node, pairs, metadata, request.runtimeHandler));
  const entries = pairs.map(
    ({ config }, index): RestoreEntry => ({
      role: 'restore',
      state: 'creating',
      operation: `${operation.id}-${index}`,
      peer: '',
      sandbox: '',
      sandboxUid: metadata.uid,
      sandboxAttempt: metadata.attempt,
      name: config.metadata?.name ?? '',
      attempt: config.metadata?.attempt ?? 0,
    }),
  );
  const created: string[] = [];
  try {
    for (const entry of entries) await node.journal.write(entry);
    operation.throwIfCancelled();
    // Not with the operation's signal: a runtime that is called off may carry it out all the same, after we have looked.
    const sandbox = await operation.phase('create', async () =>
      node.cri.describeSandbox(await node.cri.runSandbox(sandboxConfig, request.runtimeHandler)),
    );
    for (const pair of pairs) {
      operation.throwIfCancelled();
      const id = await operation.phase('create', () =>
        node.cri.createContainer(sandbox.id, pair.config, sandboxConfig),
      );
      created.push(id);
      await operation.phase('restore files', () => fill(node, pair, id));
    }
    operation.commit();
    await keep(node, operation, sandbox, pairs, created);
    for (const entry of entries) await node.journal.remove(entry);
    return operation.result({
      sandboxId: sandbox.id,
      node: node.config.node,
      directory: request.path,
      warnings: all.flatMap(({ warnings }) => warnings),
      prepared: pairs.map(({ config }, index) => ({
        name: config.metadata?.name ?? '',
        containerId: created[index] ?? '',
        _unknownFields: {},
      })),
    });
  } catch (error) {
    const undo = async (): Promise<void> => {
      for (const entry of entries) await removeRestored(node, entry);
      for (const id of created) await unguard(node, id);
      for (const one of await readPrepared(node)) if (created.includes(one.container)) await forgetPrepared(node, one);
      await rm(folderOf(node, operation), { recursive: true, force: true });
    };
    await operation.phase('undo', () => untilDone(node, 'remove-prepared', undo, operation));
    throw error;
  }
}

/** Removes a prepared pod, and all that there is for it. Idempotent. */
export async function discardPrepared(node: Node, sandbox: string): Promise<void> {
  const found = (await node.cri.listSandboxes()).some(({ id }) => id === sandbox);
  if (found) await node.cri.removeSandbox(sandbox);
  for (const one of await readPrepared(node)) if (one.sandbox === sandbox) await forgetPrepared(node, one);
}

interface Pair {
  readonly saved: Saved;
  /** What the container is made from. */
  readonly config: ContainerConfig;
}

/** Whatever is known to prevent it, before anything is made. */
async function check(node: Node, pairs: readonly Pair[], metadata: PodSandboxMetadata, handler: string): Promise<void> {
  await checkRestorableWith(handler);
  const host = await thisHost();
  for (const { saved, config } of pairs) {
    const { manifest } = saved;
    checkExpected({ name: manifest.container.name, config: saved.config }, config);
    await checkFits(saved.images, host);
    await checkSameImage(node, saved, config);
  }
  await shareOutIpc(pairs.map(({ saved: { images } }) => images));
  // What is undone after a failure is found by these.
  const isTaken = (await node.cri.listSandboxes()).some(
    ({ metadata: other }) => other?.uid === metadata.uid && other.attempt === metadata.attempt,
  );
  if (isTaken) throw new GantryError('NAME_TAKEN', `pod ${metadata.namespace}/${metadata.name} has a sandbox already`);
}

/** Errors: IMAGE_MISSING; NOT_FITTING, for another one. */
async function checkSameImage(node: Node, { manifest }: Saved, { image }: ContainerConfig): Promise<void> {
  const name = image?.image ?? '';
  const { image: here } = await node.cri.imageStatus(name);
  if (here === undefined) {
    throw new GantryError('IMAGE_MISSING', `node ${node.config.node} does not have image ${name}`, {
      hint: 'pull it first',
    });
  }
  if (here.id !== manifest.image.id) {
    throw new GantryError(
      'NOT_FITTING',
      `container ${manifest.container.name} was made from image ${manifest.image.name} (${manifest.image.id}), and ${name} is ${here.id}`,
    );
  }
}

/** Gives a container that was just created the files that the checkpoint has. From here on nothing starts it afresh. */
async function fill(node: Node, { saved, config }: Pair, id: string): Promise<void> {
  await guard(node, id);
  const { snapshotter, snapshotKey, spec } = await node.cri.describe(id);
  await checkRights(saved.images, spec);
  await saved.unpackLayer(await writableLayer(node.config.runtimeSocket, snapshotter, snapshotKey), false);
  // Only what is the pod's own: other volumes have the content that they have.
  const own = new Set(volumesOf(config).flatMap(({ name, path }) => (name === '' ? [] : [path])));
  const mounts = config.mounts.filter(({ containerPath }) => own.has(containerPath));
  await saved.unpackVolumes({ ...config, mounts }, false);
  const shm = await shmFolder(spec);
  if (shm !== undefined && (await readdir(shm)).length === 0) await saved.unpackShm(shm);
}

/** The images are no longer the operation's, but wait for the containers' start. */
async function keep(
  node: Node,
  operation: Operation,
  sandbox: SandboxDetail,
  pairs: readonly Pair[],
  containers: readonly string[],
): Promise<void> {
  const folder = folderOf(node, operation);
  for (const [index, { saved }] of pairs.entries()) {
    const container = containers[index] ?? '';
    const images = join(folder, container);
    await makePrivateFolder(images);
    await rename(saved.images, join(images, IMAGES));
    const { processes } = saved.manifest;
    await writePrepared(node, { container, sandbox: sandbox.id, images, processes });
  }
}

/** Where the images of the pod wait. */
function folderOf({ config }: Node, { id }: Operation): string {
  return join(config.imageDir, `${id}.prepared`);
}

function decoded<T>(type: { decode(bytes: Uint8Array): T }, bytes: Uint8Array): T {
  try {
    return type.decode(bytes);
  } catch (error) {
    throw new GantryError('USAGE', `the configuration cannot be read: ${messageOf(error)}`, { cause: error });
  }
}
