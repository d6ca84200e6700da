import { join } from 'node:path';
import { IMAGES, type ImageName } from './images.ts';
import { INSIDE, insideNode, runOf } from './paths.ts';
import type { LabRecord } from './registry.ts';
import type { Network } from './subnet.ts';

/** What `hack/lab env` prints: how a test on the host reaches a lab. */
export interface LabEnvironment {
  readonly name: string;
  readonly suite: string;
  readonly network: Network;
  readonly subnet: string;
  /** The host's own address in the lab's network: the clients' side of a test. */
  readonly clientAddress: string;
  readonly images: Record<ImageName, string>;
  readonly nodes: readonly NodeEnvironment[];
}

export interface NodeEnvironment {
  readonly name: string;
  readonly address: string;
  /** Of the node's PID 1; /proc/PID/ns and /proc/PID/root lead inside. */
  readonly pid: number;
  /** The relay that kubelet would use. */
  readonly criSocket: string;
  /** containerd itself. */
  readonly runtimeSocket: string;
  readonly agentSocket: string;
  /** Folder with one log per service. */
  readonly logs: string;
}

export function environmentOf(lab: LabRecord): LabEnvironment {
  return {
    name: lab.name,
    suite: lab.suite,
    network: lab.network ?? 'flat',
    subnet: lab.subnet,
    clientAddress: lab.clientAddress,
    images: IMAGES,
    nodes: lab.nodes.map(({ name, address, pid }) => ({
      name,
      address,
      pid,
      // Through /proc a path stays far below the 108 bytes of a socket's address, wherever the repository lies.
      criSocket: insideNode(pid, INSIDE.criSocket),
      runtimeSocket: insideNode(pid, INSIDE.runtimeSocket),
      agentSocket: insideNode(pid, INSIDE.agentSocket),
      logs: join(runOf(lab.repo, lab.name), name, 'log'),
    })),
  };
}
