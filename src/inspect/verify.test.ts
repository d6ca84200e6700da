import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { smallCheckpoint } from '../criu/checkpoint.fixture.ts';
import { PAGE } from '../criu/images.fixture.ts';
import { type FixtureOptions, layer, writeArchive, writeFolder } from './checkpoint.fixture.ts';
import { Checkpoint } from './open.ts';
import { type Verified, type VerifyOptions, verify } from './verify.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-verify-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function verifyAt(path: string, options: VerifyOptions = {}): Promise<Verified> {
  await using checkpoint = await Checkpoint.open(path);
  return await verify(checkpoint, options);
}

const archive = (options: FixtureOptions = {}) => writeArchive(join(folder, 'a.tar'), options);

describe('sound is', () => {
  test.each(['none', 'gzip', 'zstd'] as const)('an archive as it was made, compression %s', async (compression) => {
    const { members, compared, images } = await verifyAt(await archive({ compression }));
    // All but the manifest itself; all images but the two with pages.
    expect(compared).toBe(members - 1);
    expect(images).toBe(Object.keys(smallCheckpoint()).length - 2);
  });

  test('a folder, of which only what is small has sums', async () => {
    expect(await verifyAt(await writeFolder(join(folder, 'c')))).toMatchObject({ compared: 0, images: 16 });
  });

  test('an archive of another maker, which has none', async () => {
    expect(await verifyAt(await archive({ manifest: undefined }))).toMatchObject({ compared: 0 });
  });

  test('one with files that are setuid: whether they may be is for who restores them', async () => {
    const members = { 'rootfs-diff.tar': layer({ name: './bin/su', mode: 0o4755 }, { name: './.wh.etc' }) };
    expect((await verifyAt(await archive({ members }))).members).toBeGreaterThan(20);
  });
});

test('the layer of containerd is compressed, and checked all the same', async () => {
  const members = (bytes: Buffer) => ({ manifest: undefined, members: { 'rootfs-diff.tar': bytes } });
  const sound = gzipSync(layer({ name: './data/file', content: 'x' }));
  expect(await verifyAt(await archive(members(sound)))).toMatchObject({ compared: 0 });
  const bad = verifyAt(await archive(members(gzipSync(layer({ name: '/etc/passwd' })))));
  await expect(bad).rejects.toMatchObject({ reason: 'BAD_ARCHIVE', message: expect.stringMatching(/leads out of it/) });
  const cut = verifyAt(await archive(members(sound.subarray(0, 40))));
  await expect(cut).rejects.toMatchObject({
    reason: 'BAD_ARCHIVE',
    message: expect.stringMatching(/cannot be unpacked/),
  });
});

describe('not sound is', () => {
  const flaw = async (options: FixtureOptions) => verifyAt(await archive(options));

  test('an archive with one flipped bit in its memory', async () => {
    const path = await archive();
    const bytes = await readFile(path);
    const at = bytes.indexOf('server\0--port');
    await using file = await open(path, 'r+');
    await file.write(Buffer.from([(bytes[at] ?? 0) ^ 1]), 0, 1, at);
    await expect(verifyAt(path)).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/checkpoint\/pages-1.img is not what its manifest says/),
    });
  });

  test('one with a member that its manifest does not have', async () => {
    const manifest = { members: {} };
    await expect(flaw({ manifest })).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/not in its manifest/),
    });
  });

  test('one without a member that its manifest has', async () => {
    const path = await writeFolder(join(folder, 'c'), {
      manifest: { members: { 'spec.dump': { size: 1, sha256: 'x' } } },
    });
    await expect(verifyAt(path)).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/it lacks spec.dump/),
    });
  });

  test('one with an image that nobody reads but CRIU, which is malformed', async () => {
    const images = { 'timerfd.img': Buffer.from('not an image') };
    await expect(flaw({ images })).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/^timerfd.img, byte 0/),
    });
  });

  test('one with less memory than its page map tells of', async () => {
    const images = { 'pages-1.img': Buffer.alloc(2 * PAGE) };
    await expect(flaw({ images, manifest: undefined })).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/^pages-1.img: it has 8192 bytes, and its map tells of 12288/),
    });
  });

  test.each<[string, FixtureOptions['members'], RegExp]>([
    ['a path that leads out of it', { 'rootfs-diff.tar': layer({ name: '../etc/passwd' }) }, /leads out of it/],
    ['a device', { 'rootfs-diff.tar': layer({ name: './sda', type: 'block', device: [8, 0] }) }, /is a device/],
    ['no end', { 'rootfs-diff.tar': layer({ name: 'x' }).subarray(0, 512) }, /ends before its end mark/],
    ['a deletion elsewhere', { 'rootfs-diff.tar': layer(), 'deleted.files': '["../x"]' }, /leads out of it/],
    ['a list of deletions that is none', { 'rootfs-diff.tar': layer(), 'deleted.files': '{}' }, /no list of names/],
  ])('one whose layer has %s', async (_what, members, message) => {
    await expect(flaw({ members: members ?? {} })).rejects.toMatchObject({ reason: 'BAD_ARCHIVE', message });
  });
});

test('progress is told, and a signal ends it', async () => {
  const told: [bytes: number, of: number][] = [];
  const path = await archive();
  await verifyAt(path, { onRead: (bytes, of) => told.push([bytes, of]) });
  const [bytes, of] = told.at(-1) ?? [];
  expect(bytes).toBe(of);
  const controller = new AbortController();
  const cancelled = verifyAt(path, { signal: controller.signal, onRead: () => controller.abort(new Error('enough')) });
  await expect(cancelled).rejects.toThrow('enough');
});

test('a file that is replaced by a shorter one while a folder is read is an error, not a shorter member', async () => {
  const path = await writeFolder(join(folder, 'c'));
  await using checkpoint = await Checkpoint.open(path);
  await writeFile(join(path, 'checkpoint/pages-1.img'), 'short');
  await expect(verify(checkpoint)).rejects.toMatchObject({
    reason: 'BAD_ARCHIVE',
    message: expect.stringMatching(/pages-1.img ends at/),
  });
});
