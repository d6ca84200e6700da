import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { destroyCgroups, processesOf } from './cgroups.ts';
import { destroy } from './down.ts';
import { enterNode } from './enter.ts';
import { EXIT, ifPresent, LabError } from './failure.ts';
import { ensureImages, IMAGE_NAMES, IMAGES } from './images.ts';
import { lock } from './lock.ts';
import { createBridge, unplug, usedNetworks } from './network.ts';
import { type PlannedNode, writeNodeFiles } from './node-files.ts';
import { cachedRoot, REGISTRY, REPO, runOf } from './paths.ts';
import { run } from './program.ts';
import { say, step } from './progress.ts';
import { checkReach } from './reach.ts';
import { waitFor } from './ready.ts';
import {
  isStarting,
  type LabRecord,
  labThatIsUp,
  type NodeRecord,
  nodeOf,
  readRecord,
  recordedLabs,
  type Service,
  startTimeOf,
  writeRecord,
} from './registry.ts';
import { ensureRoot } from './root.ts';
import { startNode } from './start.ts';
import { ipv4Plan, type Network, type Plan, pickSubnet, plansOf } from './subnet.ts';
import { suiteNamed } from './suites.ts';

export interface UpOptions {
  readonly name: string;
  readonly nodes: number;
  readonly suite: string;
  readonly services: readonly Service[];
  readonly network: Network;
  readonly ipv6: boolean;
}

/** Starts a lab. When anything fails or the signal fires, whatever was made of it is removed again. */
export async function up(options: UpOptions, signal: AbortSignal): Promise<LabRecord> {
  const suite = suiteNamed(options.suite);
  if (/[:,\\]/.test(REPO)) throw new LabError(`overlay mounts take no path with a colon or comma: ${REPO}`);
  await refuseWhenUp(options.name);
  const root = await ensureRoot(suite, signal);
  const images = await ensureImages(suite, root, signal);
  const claimed = await claim(options);
  try {
    return await step(`starting lab ${options.name} with ${options.nodes} nodes of ${suite.name}`, () =>
      start(claimed, options.nodes, root, images, signal),
    );
  } catch (error) {
    say(`lab ${options.name} could not be started: removing what was made of it`);
    await destroy(options.name);
    throw error;
  }
}

/** Enters the lab in the registry, under a network that nothing else has. */
async function claim(options: UpOptions): Promise<LabRecord> {
  await using _held = await lock(join(REGISTRY, 'lock'));
  if (await refuseWhenUp(options.name)) say(`lab ${options.name} was left half-made: removing it first`);
  // In any case: an `up` that was killed, a reboot or a lost record may have left files, cgroups or interfaces.
  await destroy(options.name);
  const others = await Promise.all((await recordedLabs()).map(readRecord));
  const taken = [...(await usedNetworks()), ...others.flatMap((other) => (other === undefined ? [] : [other.subnet]))];
  const { subnet, client } = ipv4Plan(pickSubnet(options.name, taken), options.network);
  const record: LabRecord = {
    version: 1,
    name: options.name,
    repo: REPO,
    suite: options.suite,
    services: options.services,
    network: options.network,
    ipv6: options.ipv6,
    subnet,
    clientAddress: client,
    state: 'starting',
    starter: { pid: process.pid, startTime: (await startTimeOf('self')) ?? '' },
    nodes: [],
  };
  await writeRecord(record);
  return record;
}

/** Says whether something of a lab is left that is neither up nor being started; one that is, is an error. */
async function refuseWhenUp(name: string): Promise<boolean> {
  const record = await readRecord(name);
  const lives = (await processesOf(name)).size > 0;
  if (record !== undefined && (await isStarting(record))) {
    throw new LabError(`lab "${name}" is being started by process ${record.starter.pid}`, { exitCode: EXIT.busy });
  }
  if (record?.state === 'up' && lives) {
    throw new LabError(`lab "${name}" is already up (${record.nodes.length} nodes, from ${record.repo})`, {
      hint: `use it, remove it with "hack/lab down --name ${name}", or start another with --name OTHER`,
      exitCode: EXIT.busy,
    });
  }
  return record !== undefined || lives;
}

async function start(
  claimed: LabRecord,
  count: number,
  root: string,
  images: string,
  signal: AbortSignal,
): Promise<LabRecord> {
  const { name, services } = claimed;
  const suite = suiteNamed(claimed.suite);
  const folder = runOf(REPO, name);
  const planned = plan(claimed, count);
  await mkdir(folder, { recursive: true });
  const pki = services.includes('agent') ? await makeCertificates(join(folder, 'pki'), planned, signal) : undefined;
  const places = planned.map(({ place }) => place);
  await createBridge(name, plansOf(claimed), places);
  const nodes = await allOrNone(signal, planned, async (node, alive) => {
    const own = join(folder, node.name);
    await writeNodeFiles(own, node, planned, claimed, suite, root, pki);
    alive.throwIfAborted();
    const started = await startNode(claimed, own, root, node, places, alive);
    await servicesUp(own, started, services, alive, () => importImages(claimed, started, images, alive));
    return started;
  });
  const record: LabRecord = { ...claimed, state: 'up', nodes };
  await checkReach(record, signal);
  signal.throwIfAborted();
  await writeRecord(record);
  return record;
}

/**
 * A node loses its power and starts again, with what was on its disk: `/run`, `/tmp`, processes and networks are gone.
 * Its processes and sockets are found at another PID afterwards.
 */
export async function reboot(name: string, nodeName: string, signal: AbortSignal): Promise<NodeRecord> {
  await using _held = await lock(join(REGISTRY, `${name}.reboot.lock`), signal);
  const lab = await labThatIsUp(name);
  const { address } = nodeOf(lab, nodeName);
  const place = lab.nodes.findIndex((node) => node.name === nodeName) + 1;
  const folder = join(runOf(lab.repo, name), nodeName);
  return step(`rebooting node ${nodeName} of lab ${name}`, async () => {
    await destroyCgroups(name, nodeName);
    // Its end of the link goes with its network namespace, but not at once.
    await unplug(name, nodeName);
    const root = cachedRoot(lab.suite);
    const places = lab.nodes.map((_, index) => index + 1);
    const started = await startNode(lab, folder, root, { name: nodeName, address, place }, places, signal);
    await servicesUp(folder, started, lab.services, signal);
    const nodes = lab.nodes.map((node) => (node.name === nodeName ? started : node));
    await writeRecord({ ...lab, nodes });
    return started;
  });
}

/** Waits until the services of a node answer. containerd is the first. */
async function servicesUp(
  folder: string,
  node: NodeRecord,
  services: readonly Service[],
  signal: AbortSignal,
  afterContainerd?: () => Promise<void>,
): Promise<void> {
  const logTail = (service: string) => tailOf(join(folder, 'log', `${service}.log`));
  for (const service of services) {
    await waitFor(service, node, logTail, signal);
    if (service === 'containerd') await afterContainerd?.();
  }
}

/**
 * Runs `action` for every node at once. After the first failure the others are told to stop, and only when all have
 * stopped is it thrown: what is undone afterwards must not be made again by one that is late.
 */
async function allOrNone<Result>(
  signal: AbortSignal,
  nodes: readonly PlannedNode[],
  action: (node: PlannedNode, alive: AbortSignal) => Promise<Result>,
): Promise<Result[]> {
  const stop = new AbortController();
  const alive = AbortSignal.any([signal, stop.signal]);
  const failures: unknown[] = [];
  const settled = await Promise.allSettled(
    nodes.map((node) =>
      action(node, alive).catch((error: unknown) => {
        failures.push(error);
        stop.abort(error);
        throw error;
      }),
    ),
  );
  signal.throwIfAborted();
  if (failures.length > 0) throw failures[0];
  return settled.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
}

function plan(record: LabRecord, count: number): PlannedNode[] {
  const [ipv4] = plansOf(record) as [Plan];
  return Array.from({ length: count }, (_, index) => ({
    name: String.fromCharCode('a'.charCodeAt(0) + index),
    address: ipv4.node(index + 1),
    place: index + 1,
  }));
}

/** The agents' certificates. The authority's key stays on the host. */
async function makeCertificates(folder: string, nodes: readonly PlannedNode[], signal: AbortSignal): Promise<string> {
  const gantry = join(REPO, 'bin/gantry');
  await run(gantry, ['pki', 'ca', '--out', folder], { signal });
  for (const { name } of nodes)
    await run(gantry, ['pki', 'node', name, '--ca', folder, '--out', join(folder, name)], { signal });
  return folder;
}

async function importImages(lab: LabRecord, node: NodeRecord, images: string, signal: AbortSignal): Promise<void> {
  // The archives are below the repository, which the node sees at /opt/gantry.
  const inside = images.replace(REPO, '/opt/gantry');
  const ctr = async (...args: string[]) => {
    const [file = '', ...rest] = enterNode(lab, node, ['ctr', '--namespace', 'k8s.io', ...args]);
    await run(file, rest, { signal, timeoutMs: 60_000 });
  };
  for (const name of IMAGE_NAMES) await ctr('images', 'import', join(inside, `${name}.tar`));
  // kubelet's garbage collection, and ours, must not take the sandbox image.
  await ctr('images', 'label', IMAGES.pause, 'io.cri-containerd.pinned=pinned');
}

async function tailOf(file: string): Promise<string> {
  const lines = (await ifPresent(readFile(file, 'utf8'), '')).trim().split('\n').slice(-8);
  return lines.map((line) => `  ${line}`).join('\n');
}
