import { join } from 'node:path';
import { LabError } from './failure.ts';
import type { LabRecord, NodeRecord } from './registry.ts';

const JOIN = join(import.meta.dirname, 'join.sh');

/** The command line that runs `command` inside a node: in its cgroups, its namespaces and its root folder. */
export function enterNode(
  lab: Pick<LabRecord, 'name'>,
  node: Pick<NodeRecord, 'name' | 'pid'>,
  command: readonly string[],
): string[] {
  const namespaces = ['--mount', '--uts', '--ipc', '--net', '--pid', '--cgroup'];
  return [
    'sh',
    JOIN,
    `${lab.name}/${node.name}`,
    'nsenter',
    '--target',
    String(node.pid),
    ...namespaces,
    '--',
    ...command,
  ];
}

/** The environment of programs in a node: of the caller's only what describes its terminal and what Gantry reads. */
export function nodeEnvironment(): Record<string, string> {
  const kept = Object.entries(process.env).filter(([name]) => /^(TERM|LANG|LC_.*|GANTRY_.*)$/.test(name));
  const own = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', PWD: '/' };
  return { ...(Object.fromEntries(kept) as Record<string, string>), ...own };
}

/** Becomes the command inside the node: its input, output, signals and exit code are the command's own. */
export function becomeInNode(lab: LabRecord, node: NodeRecord, command: readonly string[]): never {
  const [, ...args] = enterNode(lab, node, command);
  process.chdir('/');
  process.execve?.('/bin/sh', ['sh', ...args], nodeEnvironment());
  throw new LabError('this Node has no process.execve', { hint: 'use node_modules/.bin/node' });
}
