import { appendFile, mkdtemp, open, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { writeLayout } from '../archive/oci.ts';
import { seekable } from '../archive/seekable.ts';
import { smallCheckpoint } from '../criu/checkpoint.fixture.ts';
import { layer, writeArchive, writeFolder } from './checkpoint.fixture.ts';
import { ArchiveMembers } from './members.ts';
import { Checkpoint } from './open.ts';
import { survey } from './survey.ts';
import { walkArchive } from './walk.ts';

let folder: string;
let unpackedInto: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-inspect-'));
  unpackedInto = await mkdtemp(join(tmpdir(), 'gantry-inspect-'));
  vi.stubEnv('TMPDIR', unpackedInto);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  // Whatever happened, nothing that was unpacked is left.
  expect(await readdir(unpackedInto)).toEqual([]);
  await rm(folder, { recursive: true });
  await rm(unpackedInto, { recursive: true });
});

const files = smallCheckpoint();

describe('the images of a checkpoint are the same', () => {
  test.each(['none', 'gzip', 'zstd'] as const)('in an archive, compression %s', async (compression) => {
    const path = await writeArchive(join(folder, 'a.tar'), { compression });
    await using checkpoint = await Checkpoint.open(path);
    expect(checkpoint.manifest?.container.name).toBe('main');
    expect(checkpoint.packing).toBe(compression === 'none' ? 'plain' : compression);
    const { images } = checkpoint;
    expect((await images.names()).sort()).toEqual(Object.keys(files).sort());
    for (const [name, bytes] of Object.entries(files)) expect(await images.read(name)).toEqual(bytes);
    expect(await images.read('pages-1.img', 4000, 200)).toEqual(files['pages-1.img']?.subarray(4000, 4200));
  });

  test('in a folder', async () => {
    await using checkpoint = await Checkpoint.open(await writeFolder(join(folder, 'c')));
    expect(checkpoint.packing).toBe('folder');
    expect((await checkpoint.images.names()).sort()).toEqual(Object.keys(files).sort());
    expect(await checkpoint.images.read('core-1.img')).toEqual(files['core-1.img']);
  });

  test.each(['none', 'gzip'] as const)(
    'in an OCI image layout, compression %s, which is listed, too',
    async (compression) => {
      const image = join(folder, 'image');
      const path = await writeArchive(join(image, 'layer'), { compression });
      await writeLayout(image, { path, compression }, {});
      await using checkpoint = await Checkpoint.open(image);
      expect(checkpoint.path).toBe(image);
      expect(await checkpoint.images.read('core-1.img')).toEqual(files['core-1.img']);
      const { found } = await survey(folder, { depth: 'everything' });
      expect(found.map(({ name, state, facts, stranger }) => [name, state, facts?.container.name, stranger])).toEqual([
        ['image', 'sound', 'main', undefined],
      ]);
      const { found: unread } = await survey(folder, { depth: 'headers' });
      expect(unread[0]).toMatchObject(
        compression === 'none' ? { state: 'whole' } : { state: 'unread', packing: 'gzip' },
      );
      await writeFile(join(image, 'notes'), '');
      expect((await survey(folder, { depth: 'headers' })).found).toMatchObject([{ stranger: 'notes' }]);
    },
  );

  test('in an archive that is encrypted, for whom has the key', async () => {
    const identity = await generateIdentity();
    const recipients = [await identityToRecipient(identity)];
    const path = await writeArchive(join(folder, 'a.tar.age'), { compression: 'gzip', recipients });
    await expect(Checkpoint.open(path)).rejects.toMatchObject({
      reason: 'USAGE',
      hint: expect.stringMatching(/--identity/),
    });
    const identities = [await generateIdentity()];
    await expect(Checkpoint.open(path, { identities })).rejects.toMatchObject({ reason: 'USAGE' });
    await using checkpoint = await Checkpoint.open(path, { identities: [identity] });
    expect(checkpoint.packing).toBe('encrypted');
    // In memory, not where others are unpacked.
    expect(await readdir(unpackedInto)).toEqual([]);
    expect(await checkpoint.images.read('core-1.img')).toEqual(files['core-1.img']);
  });
});

test('of an archive that is not compressed the memory is not read', async () => {
  const size = 8 * 1024 * 1024;
  const path = await writeArchive(join(folder, 'a.tar'), { images: { 'pages-9.img': Buffer.alloc(size) } });
  await using file = await open(path);
  let read = 0;
  const source = seekable(file, (await file.stat()).size);
  const counted = {
    skip: source.skip?.bind(source),
    async *[Symbol.asyncIterator]() {
      for await (const piece of source) {
        read += piece.length;
        yield piece;
      }
    },
  };
  const names: string[] = [];
  await walkArchive(counted as typeof source, path, { member: (name) => void names.push(name) });
  expect(names).toContain('checkpoint/pages-9.img');
  expect(names.at(-1)).toBe('gantry.json');
  expect(read).toBeLessThan(size / 10);
  const { own: members } = await ArchiveMembers.open(path, await open(path));
  expect([...members.sizes.keys()]).toEqual(names);
  await members[Symbol.asyncDispose]();
});

describe('nothing is opened of', () => {
  test.each([0, 500, 5000, 30_000])('an archive that is cut off at byte %i', async (length) => {
    const path = await writeArchive(join(folder, 'a.tar'));
    await truncate(path, length);
    await expect(Checkpoint.open(path)).rejects.toMatchObject({ reason: 'BAD_ARCHIVE' });
  });

  test('a compressed one that is cut off', async () => {
    const path = await writeArchive(join(folder, 'a.tar.gz'), { compression: 'gzip' });
    await truncate(path, 3000);
    await expect(Checkpoint.open(path)).rejects.toMatchObject({ reason: 'BAD_ARCHIVE' });
  });

  test('a file that is something else, a folder that is, and what does not exist', async () => {
    const tar = join(folder, 'other.tar');
    await writeFile(tar, layer({ name: 'etc/passwd', content: 'x' }));
    await expect(Checkpoint.open(tar)).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/neither gantry.json/),
    });
    await expect(Checkpoint.open(folder)).rejects.toMatchObject({
      reason: 'NOT_FOUND',
      message: expect.stringMatching(/holds no checkpoint/),
    });
    await expect(Checkpoint.open(join(folder, 'none'))).rejects.toMatchObject({ reason: 'NOT_FOUND' });
  });

  test('an archive with a link, or with a member twice, or one that leads out of it', async () => {
    const path = join(folder, 'bad.tar');
    const cases = [
      layer({ name: 'checkpoint/core-1.img', type: 'symlink', target: '/etc/shadow' }),
      layer({ name: 'spec.dump' }, { name: './spec.dump' }),
      layer({ name: '../spec.dump' }),
    ];
    for (const bytes of cases) {
      await writeFile(path, bytes);
      await expect(Checkpoint.open(path)).rejects.toMatchObject({ reason: 'BAD_ARCHIVE' });
    }
  });

  test('a folder whose image is a link to a file elsewhere', async () => {
    const path = await writeFolder(join(folder, 'c'));
    await symlink('/etc/passwd', join(path, 'checkpoint/core-9.img'));
    await expect(Checkpoint.open(path)).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/core-9.img/),
    });
  });

  test('one of a version that is not known', async () => {
    const path = await writeArchive(join(folder, 'a.tar'), { manifest: { version: 3 as 2 } });
    await expect(Checkpoint.open(path)).rejects.toMatchObject({ reason: 'UNSUPPORTED' });
  });
});

test('unpacking stops when it is cancelled, and leaves nothing', async () => {
  const images = { 'pages-9.img': Buffer.alloc(4 * 1024 * 1024, 'y') };
  const path = await writeArchive(join(folder, 'a.tar.gz'), { compression: 'gzip', images });
  const controller = new AbortController();
  const opened = Checkpoint.open(path, {
    signal: controller.signal,
    onUnpacked: () => controller.abort(new Error('enough')),
  });
  await expect(opened).rejects.toThrow('enough');
});

test('an archive is read from the file that was opened, also when another takes its place', async () => {
  const path = await writeArchive(join(folder, 'a.tar'));
  await using checkpoint = await Checkpoint.open(path);
  await rm(path);
  await appendFile(path, 'something else');
  expect((await readFile(path)).length).toBe(14);
  expect(await checkpoint.images.read('core-1.img')).toEqual(files['core-1.img']);
});
