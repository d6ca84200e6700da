import { mkdtemp, readdir, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Node } from '../agent/node.ts';
import { linkTo, sumOfManifest } from '../archive/chain.ts';
import { writeFolder } from '../inspect/checkpoint.fixture.ts';
import { checkTracking } from '../runtime/criu.ts';
import { checkWanted, parentFor } from './parent.ts';
import { forgetTracked, rememberTracked, trackedSince } from './tracked.ts';

let folder: string;
let node: Node;

beforeEach(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), 'gantry-parent-')));
  node = { config: { runDir: folder } } as Node;
});
afterEach(() => rm(folder, { recursive: true }));

const wanted = { output: '/b', parent: '', trackMemory: false, leaveRunning: false, pause: false };

describe('what is asked for', () => {
  test.each([
    ['an archive has no parent', { output: '', parent: '/a' }, /stands alone/],
    ['an archive is no parent', { output: '', trackMemory: true }, /stands alone/],
    ['the path is absolute', { parent: 'a' }, /must be an absolute path/],
    ['what is ended is not tracked', { trackMemory: true }, /nothing is left to be tracked/],
  ])('%s', (_, asked, message) => {
    const refusal = expect.objectContaining({ reason: 'USAGE', message: expect.stringMatching(message) });
    expect(() => checkWanted({ ...wanted, ...asked })).toThrow(refusal);
  });

  test('the last of a chain may end its container, the first may leave it paused', () => {
    checkWanted({ ...wanted, parent: '/a' });
    checkWanted({ ...wanted, trackMemory: true, pause: true });
    checkWanted({ ...wanted, output: '' });
  });
});

describe('the parent', () => {
  test('is told by a path from the new folder, and by the sum of its manifest', async () => {
    const parent = await writeFolder(join(folder, 'deep/a'));
    const told = await parentFor({ output: join(folder, 'b'), parent });
    expect(told).toEqual({ folder: '../deep/a', sha256: expect.stringMatching(/^[0-9a-f]{64}$/) });
    expect(linkTo(told)).toBe('../../deep/a/checkpoint');
  });

  test('is a checkpoint that is complete', async () => {
    const output = join(folder, 'b');
    await expect(parentFor({ output, parent: join(folder, 'none') })).rejects.toMatchObject({ reason: 'NOT_FOUND' });
    const parent = { folder: '../gone', sha256: '0'.repeat(64) };
    const a = await writeFolder(join(folder, 'a'), { manifest: { parent } });
    await expect(parentFor({ output, parent: a })).rejects.toMatchObject({ reason: 'BAD_ARCHIVE' });
  });

  test('is on the same file system', async () => {
    const parent = await writeFolder(join(folder, 'a'));
    await expect(parentFor({ output: '/dev/shm/b', parent })).rejects.toMatchObject({
      reason: 'USAGE',
      message: expect.stringMatching(/on another file system/),
    });
  });
});

test('crun is not asked for it', async () => {
  const asked = checkTracking('c', 'crun');
  await expect(asked).rejects.toMatchObject({
    reason: 'UNSUPPORTED',
    message: expect.stringMatching(/crun/),
    hint: expect.stringMatching(/without --parent/),
  });
});

test('since when memory is tracked is kept for each container, until it is reset or the container is no more', async () => {
  const sum = sumOfManifest('{}');
  expect(await trackedSince(node, 'one')).toBeUndefined();
  await rememberTracked(node, 'one', sum);
  expect(await trackedSince(node, 'one')).toBe(sum);
  await forgetTracked(node, 'one');
  await forgetTracked(node, 'one');
  expect(await trackedSince(node, 'one')).toBeUndefined();
  await writeFile(join(folder, 'tracked/gone'), sum);
  await rememberTracked(node, 'one', sum);
  expect(await readdir(join(folder, 'tracked'))).toEqual(['one']);
});
