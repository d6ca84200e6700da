import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { EXIT, LabError } from './failure.ts';
import { runOf } from './paths.ts';
import type { LabRecord, NodeRecord } from './registry.ts';

/** Becomes `tail` on a service's log, or on all of a node's logs with a heading each. */
export async function becomeTail(
  lab: LabRecord,
  node: NodeRecord,
  service: string | undefined,
  follow: boolean,
): Promise<never> {
  const folder = join(runOf(lab.repo, lab.name), node.name, 'log');
  const names = (await readdir(folder)).filter((name) => name.endsWith('.log')).sort();
  const wanted = service === undefined ? names : names.filter((name) => name === `${service}.log`);
  if (wanted.length === 0) {
    throw new LabError(`node ${node.name} has no log "${service}"`, {
      hint: `it has: ${names.map((name) => name.replace(/\.log$/, '')).join(', ')}`,
      exitCode: EXIT.notFound,
    });
  }
  const args = ['-n', '+1', ...(follow ? ['-F'] : []), ...wanted.map((name) => join(folder, name))];
  process.execve?.('/usr/bin/tail', ['tail', ...args], process.env as Record<string, string>);
  throw new LabError('this Node has no process.execve', { hint: 'use node_modules/.bin/node' });
}
