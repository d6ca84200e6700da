import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { execa } from 'execa';
import { LabError } from './failure.ts';

/**
 * Holds a lock on `file` until disposed of. The kernel gives it up when the holder is killed too: `cat` ends with our
 * end of its pipe, and with it the last process that has the file open.
 */
export async function lock(file: string, signal?: AbortSignal): Promise<AsyncDisposable> {
  await mkdir(dirname(file), { recursive: true });
  const holder = execa('flock', [file, 'sh', '-c', 'echo held; exec cat'], {
    reject: false,
    stdin: 'pipe',
    ...(signal === undefined ? {} : { cancelSignal: signal }),
  });
  const ended = await Promise.race([once(holder.stdout, 'data').then(() => undefined), holder]);
  signal?.throwIfAborted();
  if (ended !== undefined) throw new LabError(`cannot lock ${file}: ${ended.shortMessage ?? 'flock ended'}`);
  return {
    async [Symbol.asyncDispose]() {
      holder.stdin.end();
      await holder;
    },
  };
}
