import { NamespaceMode } from '../../gen/cri.ts';
import type { ContainerFacts } from '../facts.ts';
import { type Finding, mebibytes, some } from '../finding.ts';
import type { IpcObjects } from '../proc/ipc.ts';
import { loopbackFindings } from './sockets.ts';

/** What all of a sandbox's containers have in common. */
export interface PodFacts {
  readonly containers: readonly ContainerFacts[];
  readonly isManagedByKubelet: boolean;
  readonly ipc: IpcObjects;
}

type Facts = Pick<ContainerFacts, 'modes' | 'processes' | 'nodeNamespaces' | 'runtimeHandler' | 'runtime' | 'init'>;

/** Findings about the pod as a whole. */
export function podFindings({ containers, isManagedByKubelet, ipc }: PodFacts): Finding[] {
  const [first] = containers;
  return [
    ...(first === undefined ? [] : [...namespaces(first), ...runtime(first)]),
    ...(isManagedByKubelet ? [managed()] : []),
    ...sharedIpc(containers, ipc),
    ...loopbackFindings(containers),
  ];
}

function namespaces({ modes, processes, nodeNamespaces, init }: Facts): Finding[] {
  const own = processes.find(({ pid }) => pid === init)?.namespaces;
  const isNodes = (kind: 'net' | 'ipc' | 'pid') =>
    own !== undefined && own[kind] !== '' && own[kind] === nodeNamespaces[kind];
  const found: Finding[] = [];
  if (modes.network === NamespaceMode.NODE || isNodes('net')) {
    found.push({
      id: 'host-network',
      severity: 'no',
      seen: `the pod uses the node’s network${own === undefined ? '' : ` (${own.net})`}`,
      why: 'its address is the node’s: it can neither be shut for the move nor be taken along',
      todo: 'give it a network of its own (hostNetwork: false)',
    });
  }
  if (modes.ipc === NamespaceMode.NODE || isNodes('ipc')) {
    found.push({
      id: 'host-ipc',
      severity: 'cold',
      seen: 'the pod uses the node’s IPC namespace',
      why: 'a checkpoint holds the whole namespace, which here is everybody’s',
      todo: 'hostIPC: false',
    });
  }
  if (modes.pid === NamespaceMode.NODE || isNodes('pid')) {
    found.push({
      id: 'host-pid',
      severity: 'cold',
      seen: 'the pod uses the node’s PID namespace',
      why: 'its PIDs are taken on the other node',
      todo: 'hostPID: false',
    });
  } else if (modes.pid === NamespaceMode.POD || modes.pid === NamespaceMode.TARGET) {
    found.push({
      id: 'shared-pid',
      severity: 'cold',
      seen: 'the containers of the pod share one PID namespace',
      why: 'CRIU restores a tree into a new PID namespace: in one that exists the PIDs may be taken',
      todo: 'shareProcessNamespace: false',
    });
  }
  if (own !== undefined && own.user !== '' && own.user !== nodeNamespaces.user) {
    found.push({
      id: 'user-namespace',
      severity: 'cold',
      seen: `the pod has a user namespace of its own (${own.user})`,
      why: 'runc cannot restore a container with one',
      todo: 'hostUsers: true',
    });
  }
  return found;
}

function runtime({ runtimeHandler, runtime: program }: Facts): Finding[] {
  if (['', 'runc', 'crun'].includes(runtimeHandler) && program !== undefined) return [];
  return [
    {
      id: 'runtime',
      severity: 'cold',
      seen: `runtime handler ${runtimeHandler || "of the node's own"}`,
      why: 'containers of runc and crun can be checkpointed, others cannot here yet',
      todo: 'run it with one of these',
    },
  ];
}

function managed(): Finding {
  return {
    id: 'managed-by-kubelet',
    severity: 'hot',
    seen: 'a kubelet manages the pod',
    why: 'it would start the pod here again: gantry migrate refuses without --force',
    todo: 'move it by the life cycle of its controller, or stop that kubelet first',
  };
}

function sharedIpc(containers: readonly ContainerFacts[], ipc: IpcObjects): Finding[] {
  const users = ipc.segments.flatMap(({ id, bytes }) => {
    const names = containers
      .filter(({ areas }) => areas.some(({ inode, name }) => inode === id && name.startsWith('/SYSV')))
      .map(({ name }) => name);
    return names.length < 2 ? [] : [`segment ${id} (${mebibytes(bytes)}) in ${names.join(', ')}`];
  });
  // Who uses a queue or a set of semaphores is written down nowhere.
  const others =
    containers.length > 1 && ipc.semaphores + ipc.queues > 0
      ? [`${ipc.semaphores} set(s) of semaphores, ${ipc.queues} queue(s)`]
      : [];
  if (users.length === 0 && others.length === 0) return [];
  return [
    {
      id: 'shared-ipc',
      severity: users.length > 0 ? 'cold' : 'warm',
      seen: some([...users, ...others]),
      ...(users.length > 0
        ? {
            why: 'several containers have mapped a System V segment: CRIU restores each on its own, and cannot map what another one has made',
            todo: 'share a file in /dev/shm instead',
          }
        : {
            why: 'the containers share System V IPC: each one’s checkpoint holds all of it, and what the first restores is in the second one’s way',
            todo: 'checkpoint and restore the pod as a whole; a single container of it cannot be moved alone',
          }),
    },
  ];
}
