import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { trackedSince } from '../checkpoint/tracked.ts';
import { GantryError } from '../errors.ts';
import type { CheckRequest, Result } from '../gen/gantry/v1/agent.ts';
import { type ContainerFacts, factsOf, lookAgain } from './facts.ts';
import type { Finding } from './finding.ts';
import { descriptorFindings } from './findings/descriptors.ts';
import { fileFindings } from './findings/files.ts';
import { memoryFindings } from './findings/memory.ts';
import { nodeFindings, peerFindings } from './findings/nodes.ts';
import { podFindings } from './findings/pod.ts';
import { processFindings } from './findings/processes.ts';
import { socketFindings } from './findings/sockets.ts';
import { askPeer } from './peer.ts';
import { type DirtyFigures, dirtyRate } from './proc/dirty.ts';
import { ipcObjects } from './proc/ipc.ts';
import { type MemoryFacts, sumOf } from './proc/memory.ts';
import { type NodeFacts, nodeFacts } from './proc/node.ts';
import { refusalOf, unexplained } from './refusal.ts';
import { type Checked, report } from './report.ts';
import { findSubject } from './subject.ts';

/** Of one minute at most: what changes in longer is not what a move meets. */
const WINDOW_LIMIT_SECONDS = 60;

/**
 * Tells beforehand what a checkpoint or a migration of a container or pod would meet, and what it would cost. Everything
 * is read while the processes run on. Errors: NOT_FOUND, NOT_RUNNING, PEER_UNKNOWN, PEER_UNREACHABLE, USAGE, CANCELLED.
 */
export async function check(node: Node, request: CheckRequest, operation: Operation): Promise<Result> {
  const { target, to, windowSeconds, bandwidthMbit } = request;
  if (!(windowSeconds >= 0 && windowSeconds <= WINDOW_LIMIT_SECONDS)) {
    throw new GantryError('USAGE', `the window is from 0 to ${WINDOW_LIMIT_SECONDS} seconds`);
  }
  if (!(bandwidthMbit > 0)) throw new GantryError('USAGE', 'the bandwidth is more than 0 Mbit/s');
  const { signal } = operation;
  const { containers, refusal } = await operation.phase('find', () => find(node, target, signal));
  const [first] = containers;
  if (first === undefined) throw new GantryError('NOT_FOUND', `no container of ${target} runs`);
  const images = new Map(containers.map(({ imageRef, image }) => [imageRef, image]));
  const { here, there } = await operation.phase('ask nodes', async () => ({
    here: await nodeFacts(node, []),
    there: to === '' ? undefined : await askPeer(node, to, [...images.keys()], signal),
  }));
  const early = await operation.phase('read', () => Promise.all(containers.map((one) => factsOf(node, one, signal))));
  const checked = await operation.phase('watch memory', () =>
    Promise.all(
      early.map(async (facts): Promise<Checked> => {
        const isTracked = (await trackedSince(node, facts.id)) !== undefined;
        const dirty = await dirtyRate(facts.areas, windowSeconds * 1000, signal, isTracked);
        return judge({ ...facts, later: await lookAgain(facts) }, dirty);
      }),
    ),
  );
  const ipc = await ipcObjects(first.sandbox.pid, signal);
  const pod = podFindings({
    containers: checked.map(({ facts }) => facts),
    isManagedByKubelet: refusal.isManaged,
    ipc,
  });
  const general = [
    ...pod,
    ...nodeFindings(here),
    ...(there === undefined ? [] : peersOf(here, there, images, checked)),
  ];
  const all = [...general, ...checked.flatMap(({ findings }) => findings)];
  const findings = [...general, ...unexplained(all, refusal)];
  return operation.result({
    sandboxId: first.sandbox.id,
    node: node.config.node,
    check: report({ request, node: node.config.node, container: first, checked, findings, here, there }),
  });
}

async function find(node: Node, target: string, signal: AbortSignal) {
  const { containerIds } = await findSubject(node, target, signal);
  const containers = await Promise.all(containerIds.map((id) => node.cri.describe(id, signal)));
  return { containers, refusal: await refusalOf(node.cri, containers) };
}

function judge(facts: ContainerFacts, dirty: DirtyFigures): Checked {
  const memory = sumOf(facts.areas);
  const findings = [
    ...processFindings(facts),
    ...descriptorFindings(facts),
    ...socketFindings(facts),
    ...fileFindings(facts),
    ...memoryFindings(memory),
  ];
  return { facts, memory, dirty, findings };
}

function peersOf(
  here: NodeFacts,
  there: NodeFacts,
  images: ReadonlyMap<string, string>,
  checked: readonly Checked[],
): Finding[] {
  const labels = checked.flatMap(({ facts }) => facts.processes.map(({ label }) => label)).filter(Boolean);
  const bytes = checked.reduce((total, { memory }) => total + sum(memory), 0);
  return peerFindings(here, there, { images, bytes, labels: [...new Set(labels)] });
}

function sum({ bytes }: MemoryFacts): number {
  return Object.values(bytes).reduce((total, size) => total + size, 0);
}
