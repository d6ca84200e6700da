import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { processesOf } from './cgroups.ts';
import { EXIT, ifPresent, LabError } from './failure.ts';
import { insideNode } from './paths.ts';
import type { LabRecord, NodeRecord, Service } from './registry.ts';

/** A running service: its PID as its node counts, and as the host does. */
export interface ServiceProcess {
  readonly pid: number;
  readonly hostPid: number;
}

/** Whether a node's PID 1 is the one that `up` started: PIDs are used again. */
export async function isAlive(lab: LabRecord, node: NodeRecord): Promise<boolean> {
  const groups = await ifPresent(readFile(`/proc/${node.pid}/cgroup`, 'utf8'), '');
  return groups.includes(`/gantry-lab/${lab.name}/${node.name}`);
}

export async function refuseDeadNode(lab: LabRecord, node: NodeRecord): Promise<void> {
  if (await isAlive(lab, node)) return;
  throw new LabError(`node ${node.name} of lab "${lab.name}" no longer runs`, {
    hint: `hack/lab down --name ${lab.name} && hack/lab up --name ${lab.name}`,
    exitCode: EXIT.notFound,
  });
}

/** The process of a service, or undefined while there is none: between its end and the supervisor's next try. */
export async function serviceProcess(
  lab: LabRecord,
  node: NodeRecord,
  service: Service,
): Promise<ServiceProcess | undefined> {
  const text = await ifPresent(readFile(insideNode(node.pid, `/run/lab/${service}.pid`), 'utf8'), '');
  const pid = Number(text);
  if (!(pid > 0)) return undefined;
  for (const hostPid of await processesOf(lab.name, node.name)) {
    const status = await ifPresent(readFile(`/proc/${hostPid}/status`, 'utf8'), '');
    // "NSpid: 4711 49": the PID in each namespace, from the host's to the process' own.
    const inNode = /^NSpid:\s+\d+\s+(\d+)$/m.exec(status)?.[1];
    if (Number(inNode) === pid && !/^State:\s+Z/m.test(status)) return { pid, hostPid };
  }
  return undefined;
}

/** Kills a service's one process and waits until the supervisor in the node has started another. */
export async function killService(
  lab: LabRecord,
  node: NodeRecord,
  service: Service,
): Promise<{ before: ServiceProcess; after: ServiceProcess }> {
  if (!lab.services.includes(service)) {
    throw new LabError(`lab "${lab.name}" was started without ${service}`, {
      hint: `its services are: ${lab.services.join(', ')}`,
      exitCode: EXIT.notFound,
    });
  }
  const before = await appears(lab, node, service, undefined);
  process.kill(before.hostPid, 'SIGKILL');
  return { before, after: await appears(lab, node, service, before) };
}

async function appears(
  lab: LabRecord,
  node: NodeRecord,
  service: Service,
  before: ServiceProcess | undefined,
): Promise<ServiceProcess> {
  const limitMs = 5000;
  const until = performance.now() + limitMs;
  while (performance.now() < until) {
    const found = await serviceProcess(lab, node, service);
    if (found !== undefined && found.hostPid !== before?.hostPid) return found;
    await sleep(20);
  }
  const what = before === undefined ? 'does not run' : 'was killed, but has not been started again';
  throw new LabError(`${service} on node ${node.name} ${what} (waited ${limitMs / 1000} s)`, {
    hint: `hack/lab logs ${node.name} ${service} --name ${lab.name}`,
  });
}
