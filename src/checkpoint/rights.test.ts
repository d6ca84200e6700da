import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { encodeImage } from '../criu/encode.ts';
import { core } from '../criu/images.fixture.ts';
import { checkRights } from './rights.ts';

let images: string;

beforeEach(async () => {
  images = await mkdtemp(join(tmpdir(), 'gantry-images-'));
});
afterEach(() => rm(images, { recursive: true }));

const put = (name: string, bytes: Buffer) => writeFile(join(images, name), bytes);

describe('a thread without a filter of its own', () => {
  const common = { futex_rla: 0n, futex_rla_len: 0, sched_nice: 0, sched_policy: 0 };
  const first = { thread_core: { ...common, seccomp_mode: 'filter', seccomp_filter: 1 } };
  const check = () => checkRights(images, { linux: { seccomp: {} } });
  const save = async (threads: readonly number[], flags: number) => {
    await put('core-1.img', core('server', first));
    await put('core-2.img', core('thread', { thread_core: common }));
    await put('pstree.img', encodeImage('PSTREE', [{ pid: 1, ppid: 0, pgid: 1, sid: 1, threads }]));
    const filters = [{ filter: Buffer.alloc(8) }, { filter: Buffer.alloc(8), flags }];
    await put('seccomp.img', encodeImage('SECCOMP', [{ seccomp_filters: filters }]));
  };

  test('has that of the first one, where it is restored for all', async () => {
    await save([1, 2], 1);
    await expect(check()).resolves.toBeUndefined();
  });

  test.each([
    ['where it is the first one’s alone', [1, 2], 0],
    ['in another process', [1], 1],
  ] as const)('has none %s', async (_where, threads, flags) => {
    await save(threads, flags);
    await expect(check()).rejects.toMatchObject({
      reason: 'NOT_ALLOWED',
      message: expect.stringMatching(/without seccomp/),
    });
  });
});
