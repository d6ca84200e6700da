import { join, resolve } from 'node:path';

/** The clone that this lab belongs to. */
export const REPO = resolve(import.meta.dirname, '../..');

/** Records of every lab on the machine, whatever clone made it. */
export const REGISTRY = '/run/gantry-lab';

export const cachedRoot = (suite: string): string => join(REPO, '.lab/root', suite);
export const cachedImages = (suite: string): string => join(REPO, '.lab/images', suite);

/** What a running lab keeps on disk; removed by `down`. */
export const runOf = (repo: string, lab: string): string => join(repo, '.lab/run', lab);

/** A path inside a node, as the host reaches it while the node's PID 1 lives. */
export const insideNode = (pid: number, path: string): string => `/proc/${pid}/root${path}`;

/** Where things are inside each node. */
export const INSIDE = {
  runtimeSocket: '/run/containerd/containerd.sock',
  criSocket: '/run/gantry/cri.sock',
  agentSocket: '/run/gantry/agent.sock',
  logs: '/var/log/gantry-lab',
} as const;
