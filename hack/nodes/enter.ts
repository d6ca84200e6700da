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
  process.chdir('/');
  // Node makes its pipes non-blocking, which the command would inherit. Opened again, they are as they were.
  const own = '/proc/self/fd';
  const reopen = ['0<', '1>', '2>'].map((to) => `[ ! -p ${own}/${to[0]} ] || exec ${to}${own}/${to[0]}`);
  process.execve?.(
    '/bin/sh',
    ['sh', '-c', `${reopen.join('; ')}; exec "$@"`, 'sh', ...enterNode(lab, node, command)],
    nodeEnvironment(),
  );
  throw new LabError('this Node has no process.execve', { hint: 'use node_modules/.bin/node' });
}
