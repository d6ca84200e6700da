import { randomUUID } from 'node:crypto';
import { mkdir, readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import type { Manifest, TcpMode } from '../archive/layout.ts';
import { GantryError } from '../errors.ts';
import { type ContainerConfig, ContainerState, PodSandboxConfig, PodSandboxState } from '../gen/cri.ts';
import type { RestoreRequest, Result } from '../gen/gantry/v1/agent.ts';
import type { RestoreEntry, SourceEntry } from '../migrate/journal.ts';
import { removeMade, serve } from '../migrate/placeholder.ts';
import { untilDone } from '../migrate/retry.ts';
import { addressesOf, replaceAddresses } from '../network/address.ts';
import { forgetClosing } from '../network/connections.ts';
import { open, shut } from '../network/shield.ts';
import { writableLayer } from '../runtime/containerd.ts';
import { pinned, type SandboxDetail } from '../runtime/cri.ts';
import { checkLines } from '../runtime/criu.ts';
import { removeOccupant } from '../surgery/occupants.ts';
import { checkFits, thisHost } from './fits.ts';
import { networkOf } from './freeze.ts';
import { shareOutIpc } from './ipc.ts';
import { checkRestorable, checkRestorableWith } from './preflight.ts';
import { type Coming, PoisedPod, verifyRunning } from './restore-container.ts';
import { checkRights } from './rights.ts';
import { Saved } from './saved.ts';
import { checkName, refuseDemands } from './trust.ts';
import { shmFolder, withOwnVolumes } from './volumes.ts';

/**
 * Creates containers through CRI, in a sandbox that exists or in one that is made for them, and starts them from a
 * checkpoint. A failure removes what was made; the checkpoint stays as it is.
 */
export async function restore(node: Node, request: RestoreRequest, operation: Operation): Promise<Result> {
  if ((request.sandbox === '') === (request.newSandbox === ''))
    throw new GantryError('USAGE', 'either a sandbox that exists or the name of a new one');
  return restoreInto(node, request, operation);
}

/** The same into the very pod that moved away, and is no more: its name, its UID, and its addresses. */
export function restoreOriginal(
  node: Node,
  request: RestoreRequest,
  operation: Operation,
  moved: Moved,
): Promise<Result> {
  return restoreInto(node, request, operation, moved);
}

/** A pod that was moved. */
export type Moved = Required<Pick<SourceEntry, 'operation' | 'peer' | 'sandboxMetadata' | 'addresses'>>;

async function restoreInto(
  node: Node,
  request: RestoreRequest,
  operation: Operation,
  original?: Moved,
): Promise<Result> {
  const { source, identities, criuOptions } = request;
  checkLines(criuOptions);
  const all = await operation.phase('read', () =>
    Saved.openAll(node, operation.id, source, { identities, signal: operation.signal }),
  );
  const [first] = all;
  await using _opened = first;
  const isCold = first.manifest.cold === true;
  const made = original === undefined ? madeFor(first, request) : first.sandboxConfig;
  const sandboxId = made === undefined ? (await node.cri.findSandbox(request.sandbox, operation.signal)).id : '';
  await operation.phase('check', async () => {
    if (made === undefined) await checkRestorable(sandboxId, all);
    else if (!isCold) await checkRestorableWith(first.manifest.sandbox.runtimeHandler);
    const host = await thisHost();
    if (all.length > 1 && request.name !== '')
      throw new GantryError('USAGE', 'it is the checkpoint of a pod: its containers keep their names');
    for (const { images, manifest, config } of all) {
      checkName(manifest.container.name);
      if (request.name !== '') checkName(request.name);
      if (!request.trustConfig) refuseDemands(config, made);
      if (!isCold) await checkFits(images, host);
      await checkImage(node, manifest);
    }
    if (all.length > 1) await shareOutIpc(all.map(({ images }) => images));
  });
  const entries: RestoreEntry[] = [];
  for (const [index, { manifest }] of all.entries()) {
    const name = request.name || manifest.container.name;
    entries.push({
      role: 'restore',
      state: 'creating',
      operation: all.length === 1 ? operation.id : `${operation.id}-${index}`,
      peer: '',
      sandbox: sandboxId,
      name,
      attempt: made === undefined ? await nextAttempt(node, sandboxId, name) : 0,
      ...(all.length > 1 && { isShut: true }),
      ...(made?.metadata !== undefined && {
        sandboxUid: made.metadata.uid,
        sandboxAttempt: made.metadata.attempt,
      }),
    });
  }
  const warnings = all.flatMap((saved) => saved.warnings);
  if (isCold) warnings.push('no memory was kept of it: its processes have started anew');
  try {
    for (const entry of entries) await node.journal.write(entry);
    const sandbox = await operation.phase('create', async () => {
      if (made === undefined) return node.cri.describeSandbox(sandboxId, operation.signal);
      for (const { name } of entries) await mkdir(join(made.logDirectory, name), { recursive: true });
      // Not to be cut off: the runtime may go on with a call that its client has left, and come to its end after the rollback.
      const id = await node.cri.runSandbox(made, first.manifest.sandbox.runtimeHandler);
      const detail = await node.cri.describeSandbox(id);
      if (original !== undefined) {
        await shut(networkOf(detail.pid));
        await node.moved.write(id, original.addresses);
        await replaceAddresses(networkOf(detail.pid), original.addresses);
      }
      return detail;
    });
    const tcp = await tcpFor(request, first.manifest, sandbox, warnings);
    const coming: Coming[] = [];
    for (const [index, saved] of all.entries())
      coming.push({
        id: await create(node, request, operation, sandbox, saved, entries[index] as RestoreEntry),
        from: saved,
      });
    operation.throwIfCancelled();
    await operation.phase(isCold ? 'start' : 'restore', async () => {
      const options = { tcp, lines: criuOptions };
      await using poised = isCold
        ? PoisedPod.created(node, sandbox, coming)
        : await PoisedPod.restore(node, operation.id, sandbox, coming, options, operation.signal);
      operation.commit();
      await poised.resume({ keepShut: original !== undefined });
    });
    await operation.phase('verify', async () => {
      for (const [index, { id }] of coming.entries())
        await verifyRunning(node, id, all[index]?.manifest.processes ?? 1);
    });
    if (original !== undefined) await serve(node, { ...original, sandbox: sandbox.id }, original.addresses);
    for (const entry of entries) await node.journal.remove(entry);
    return operation.result({
      containerId: coming.length === 1 ? (coming[0]?.id ?? '') : '',
      sandboxId: sandbox.id,
      node: node.config.node,
      directory: source,
      warnings,
      ...(isCold && { mode: 'cold' }),
    });
  } catch (error) {
    await operation.phase('undo', () =>
      untilDone(
        node,
        'remove-restored',
        async () => {
          for (const entry of entries) await removeRestored(node, entry);
        },
        operation,
      ),
    );
    throw error;
  }
}

async function create(
  node: Node,
  request: RestoreRequest,
  operation: Operation,
  sandbox: SandboxDetail,
  saved: Saved,
  entry: RestoreEntry,
): Promise<string> {
  const own = configFor(saved, entry);
  const { sandboxUid } = entry;
  const config = sandboxUid === undefined ? own : await withOwnVolumes(node, own, sandboxUid);
  const id = await operation.phase('create', () => node.cri.createContainer(sandbox.id, config, sandbox.config));
  const { snapshotter, snapshotKey, spec } = await node.cri.describe(id);
  await checkRights(saved.images, spec);
  await operation.phase('restore files', async () => {
    const upper = await writableLayer(node.config.runtimeSocket, snapshotter, snapshotKey);
    await saved.unpackLayer(upper, request.allowSetuid);
    await saved.unpackVolumes(config, request.allowSetuid);
    const shm = await shmFolder(spec);
    if (shm !== undefined && (await readdir(shm)).length === 0) await saved.unpackShm(shm);
  });
  return id;
}

/** Removes what a restore has made so far, found by what the runtime reserves for it. Idempotent. */
export async function removeRestored(node: Node, entry: RestoreEntry): Promise<void> {
  const { sandboxUid, sandboxAttempt } = entry;
  const sandboxes = (await node.cri.listSandboxes()).filter(
    ({ metadata }) =>
      metadata?.uid === sandboxUid && (sandboxAttempt === undefined || metadata?.attempt === sandboxAttempt),
  );
  const ids = sandboxUid === undefined ? [entry.sandbox] : sandboxes.map(({ id }) => id);
  for (const { id, podSandboxId, metadata } of await node.cri.listContainers()) {
    const isOurs = metadata?.name === entry.name && metadata.attempt === entry.attempt;
    if (ids.includes(podSandboxId) && isOurs) await removeOccupant(node, id);
  }
  if (sandboxUid !== undefined) for (const id of ids) await removeMade(node, id);
  else if (entry.isShut === true) await openAgain(node, entry.sandbox);
  await node.journal.remove(entry);
}

/** Of a sandbox that was there before, and may be gone. */
async function openAgain(node: Node, sandbox: string): Promise<void> {
  const found = (await node.cri.listSandboxes()).find(({ id }) => id === sandbox);
  if (found?.state !== PodSandboxState.SANDBOX_READY) return;
  const netns = networkOf((await node.cri.describeSandbox(sandbox)).pid);
  const isUsed = (await node.cri.listContainers()).some(
    ({ podSandboxId, state }) => podSandboxId === sandbox && state === ContainerState.CONTAINER_RUNNING,
  );
  // What is left of a connection would hold its addresses for seconds, and be in the way of the next restore.
  if (!isUsed) await forgetClosing(netns);
  await open(netns);
}

/** Errors: IMAGE_MISSING. */
export async function checkImage(node: Node, { image }: Pick<Manifest, 'image'>): Promise<void> {
  const { image: here } = await node.cri.imageStatus(image.id);
  if (here === undefined) {
    throw new GantryError('IMAGE_MISSING', `node ${node.config.node} does not have image ${image.name} (${image.id})`, {
      hint: 'pull that very image first',
    });
  }
}

function madeFor(saved: Saved, { newSandbox }: RestoreRequest): PodSandboxConfig | undefined {
  return newSandbox === '' ? undefined : newSandboxOf(saved, newSandbox);
}

/** One of another name: kubelet's own would be taken for it, and its ports are another one's. */
function newSandboxOf({ sandboxConfig, manifest }: Saved, name: string): PodSandboxConfig {
  if (manifest.sandbox.config === '') {
    throw new GantryError('USAGE', 'the checkpoint does not say how its sandbox was configured', {
      hint: 'make one with crictl runp, and use --sandbox',
    });
  }
  const uid = randomUUID();
  const namespace = sandboxConfig.metadata?.namespace ?? 'default';
  // Both become part of a path.
  for (const part of [namespace, name]) checkName(part);
  const labels: Record<string, string> = { ...sandboxConfig.labels };
  for (const [key, value] of Object.entries({ 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.uid': uid }))
    if (key in labels) labels[key] = value;
  return PodSandboxConfig.fromPartial({
    ...sandboxConfig,
    metadata: { name, namespace, uid, attempt: 0 },
    hostname: sandboxConfig.hostname === '' ? '' : name,
    logDirectory: `/var/log/pods/${namespace}_${name}_${uid}`,
    portMappings: [],
    labels,
    linux: { ...sandboxConfig.linux, cgroupParent: '' },
  });
}

/** Connections live on only at the address that they were made with; at another one CRIU could not put them back. */
async function tcpFor(
  { tcpClose }: RestoreRequest,
  { tcp, sandbox: { addresses } }: Manifest,
  sandbox: SandboxDetail,
  warnings: string[],
): Promise<TcpMode> {
  if (tcpClose || tcp !== 'established' || addresses.length === 0) return tcpClose ? 'close' : tcp;
  const here = (await addressesOf(networkOf(sandbox.pid))).map(({ local }) => local);
  if (addresses.every((address) => here.includes(address))) return tcp;
  warnings.push(
    `the sandbox has ${here.join(', ') || 'no address'}, and the checkpoint ${addresses.join(', ')}: connections are closed`,
  );
  return 'close';
}

/** The runtime reserves name and attempt. */
async function nextAttempt(node: Node, sandbox: string, name: string): Promise<number> {
  const taken = (await node.cri.listContainers())
    .filter(({ podSandboxId, metadata }) => podSandboxId === sandbox && metadata?.name === name)
    .map(({ metadata }) => metadata?.attempt ?? 0);
  return Math.max(-1, ...taken) + 1;
}

function configFor({ config, manifest }: Saved, { name, attempt }: RestoreEntry): ContainerConfig {
  const label = 'io.kubernetes.container.name';
  return {
    ...pinned(config, manifest.image),
    metadata: { name, attempt, _unknownFields: {} },
    labels: { ...config.labels, ...(label in config.labels && { [label]: name }) },
    logPath: join(dirname(config.logPath) === '.' ? '' : name, `${attempt}.log`),
  };
}
