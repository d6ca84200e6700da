import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { endWithChildren, findProcesses } from './processes.ts';

describe('endWithChildren', () => {
  it('ends a process, its children and theirs, and nothing else', async () => {
    const mark = `gantry-test-${process.pid}`;
    const script = 'sh -c "sleep 60 & sleep 60" "$0-child" & wait';
    const family = spawn('sh', ['-c', script, mark], { stdio: 'ignore' });
    const other = spawn('sh', ['-c', 'read line', `${mark}-other`], { stdio: ['pipe', 'ignore', 'ignore'] });
    const named = async (name: string) => (await findProcesses((args) => args.includes(name))).map(({ pid }) => pid);
    try {
      while ((await named(`${mark}-child`)).length === 0) await sleep(5);
      const [root = 0] = await named(mark);
      expect(root).toBe(family.pid);
      await endWithChildren([root]);
      expect(await named(mark)).toEqual([]);
      expect(await named(`${mark}-child`)).toEqual([]);
      expect(await named(`${mark}-other`)).toEqual([other.pid]);
    } finally {
      other.stdin.end();
    }
  });

  it('has nothing to do for processes that are gone', async () => {
    const gone = spawn('true');
    await once(gone, 'exit');
    await endWithChildren([gone.pid ?? 0]);
  });
});
