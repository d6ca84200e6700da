import { randomUUID } from 'node:crypto';
import { mkdir, readdir } from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import type { Manifest, TcpMode } from '../archive/layout.ts';
import { exists } from '../durable.ts';
import { GantryError } from '../errors.ts';
import { type ContainerConfig, PodSandboxConfig } from '../gen/cri.ts';
import type { RestoreRequest, Result } from '../gen/gantry/v1/agent.ts';
import type { RestoreEntry } from '../migrate/journal.ts';
import { untilDone } from '../migrate/retry.ts';
import { addressesOf } from '../network/address.ts';
import { writableLayer } from '../runtime/containerd.ts';
import type { SandboxDetail } from '../runtime/cri.ts';
import { checkLines, criuVersion } from '../runtime/criu.ts';
import { checkFits, thisHost } from './fits.ts';
import { networkOf } from './freeze.ts';
import { PoisedContainer, verifyRunning } from './restore-container.ts';
import { checkRights } from './rights.ts';
import { Saved } from './saved.ts';

/**
 * Creates a container through CRI, in a sandbox that exists or in one that is made for it, and starts it from a
 * checkpoint. A failure removes what was made; the checkpoint stays as it is.
 */
export async function restore(node: Node, request: RestoreRequest, operation: Operation): Promise<Result> {
  const { source, identities, criuOptions } = request;
  if ((request.sandbox === '') === (request.newSandbox === ''))
    throw new GantryError('USAGE', 'either a sandbox that exists or the name of a new one');
  checkLines(criuOptions);
  await using saved = await operation.phase('read', () =>
    Saved.open(node, operation.id, source, { identities, signal: operation.signal }),
  );
  const { manifest } = saved;
  await operation.phase('check', async () => {
    await criuVersion();
    await checkFits(saved.images, await thisHost());
    await checkImage(node, manifest);
  });
  const made = request.newSandbox === '' ? undefined : newSandboxOf(saved, request.newSandbox);
  const entry: RestoreEntry = {
    role: 'restore',
    state: 'creating',
    operation: operation.id,
    peer: '',
    sandbox: made === undefined ? (await node.cri.findSandbox(request.sandbox, operation.signal)).id : '',
    name: request.name || manifest.container.name,
    attempt: 0,
    ...(made?.metadata !== undefined && { sandboxUid: made.metadata.uid }),
  };
  const warnings = [...saved.warnings];
  if (made === undefined) entry.attempt = await nextAttempt(node, entry);
  await node.journal.write(entry);
  try {
    const sandbox = await operation.phase('create', async () => {
      if (made === undefined) return node.cri.describeSandbox(entry.sandbox, operation.signal);
      await mkdir(join(made.logDirectory, entry.name), { recursive: true });
      const id = await node.cri.runSandbox(made, manifest.sandbox.runtimeHandler, operation.signal);
      return node.cri.describeSandbox(id);
    });
    const tcp = await tcpFor(request, manifest, sandbox, warnings);
    const container = await operation.phase('create', () =>
      node.cri.createContainer(sandbox.id, configFor(saved, entry), sandbox.config, operation.signal),
    );
    const { snapshotter, snapshotKey, spec } = await node.cri.describe(container);
    await checkRights(saved.images, spec);
    await operation.phase('restore files', async () => {
      const upper = await writableLayer(node.config.runtimeSocket, snapshotter, snapshotKey);
      await saved.unpackLayer(upper, request.allowSetuid);
      const shm = spec.mounts?.find(({ destination }) => destination === '/dev/shm')?.source ?? '';
      if (isAbsolute(shm) && (await exists(shm)) && (await readdir(shm)).length === 0) await saved.unpackShm(shm);
    });
    operation.throwIfCancelled();
    await operation.phase('restore', async () => {
      const options = { tcp, lines: criuOptions };
      await using poised = await PoisedContainer.restore(node, operation.id, container, saved.images, options);
      operation.commit();
      await poised.resume();
    });
    await operation.phase('verify', () => verifyRunning(node, container, manifest.processes));
    await node.journal.remove(entry);
    return operation.result({
      containerId: container,
      sandboxId: sandbox.id,
      node: node.config.node,
      directory: source,
      warnings,
    });
  } catch (error) {
    await operation.phase('undo', () =>
      untilDone(
        node,
        'remove-restored',
        () => removeRestored(node, entry),
        (what, why) => operation.retrying(what, why),
      ),
    );
    throw error;
  }
}

/** Removes what a restore has made so far, found by what the runtime reserves for it. */
export async function removeRestored(node: Node, entry: RestoreEntry): Promise<void> {
  const { sandboxUid } = entry;
  if (sandboxUid !== undefined) {
    for (const { id, metadata } of await node.cri.listSandboxes()) {
      if (metadata?.uid === sandboxUid) await node.cri.removeSandbox(id);
    }
  } else {
    for (const { id, podSandboxId, metadata } of await node.cri.listContainers()) {
      const same =
        podSandboxId === entry.sandbox && metadata?.name === entry.name && metadata.attempt === entry.attempt;
      if (same) await node.cri.removeContainer(id);
    }
  }
  await node.journal.remove(entry);
}

/** Errors: IMAGE_MISSING. */
export async function checkImage(node: Node, { image }: Manifest): Promise<void> {
  const { image: here } = await node.cri.imageStatus(image.id);
  if (here === undefined) {
    throw new GantryError('IMAGE_MISSING', `node ${node.config.node} does not have image ${image.name} (${image.id})`, {
      hint: 'pull that very image first',
    });
  }
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
async function nextAttempt(node: Node, { sandbox, name }: RestoreEntry): Promise<number> {
  const taken = (await node.cri.listContainers())
    .filter(({ podSandboxId, metadata }) => podSandboxId === sandbox && metadata?.name === name)
    .map(({ metadata }) => metadata?.attempt ?? 0);
  return Math.max(-1, ...taken) + 1;
}

function configFor({ config, manifest }: Saved, { name, attempt }: RestoreEntry): ContainerConfig {
  const label = 'io.kubernetes.container.name';
  return {
    ...config,
    metadata: { name, attempt, _unknownFields: {} },
    labels: { ...config.labels, ...(label in config.labels && { [label]: name }) },
    logPath: join(dirname(config.logPath) === '.' ? '' : name, `${attempt}.log`),
    ...(config.image !== undefined && {
      image: {
        ...config.image,
        image: manifest.image.id,
        userSpecifiedImage: config.image.userSpecifiedImage || manifest.image.name,
      },
    }),
  };
}
