import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { COMPRESSIONS, type Compression } from './layout.ts';
import { archiveIn, podAnnotations, writeLayout } from './oci.ts';
import { ArchiveOutput } from './output.ts';
import { readArchive } from './reader.ts';
import { ArchiveWriter } from './writer.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-oci-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function layout(compression: Compression): Promise<string> {
  const path = join(folder, 'layer');
  await using file = await open(path, 'w');
  const output = await ArchiveOutput.open(file, compression, []);
  const writer = new ArchiveWriter(output);
  await writer.add('spec.dump', '{}');
  await writer.end();
  await output.end();
  await writeLayout(folder, { path, compression }, { 'org.criu.checkpoint.container.name': 'main' });
  return folder;
}

const blob = (digest: string) => readFile(join(folder, 'blobs', digest.replace(':', '/')));
const json = async (digest: string) => JSON.parse((await blob(digest)).toString()) as Record<string, unknown>;
const sha256 = (bytes: Buffer) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
}

test.each(COMPRESSIONS)(
  'a layout tells of its one image, whose one layer is the archive, compressed by %s',
  async (how) => {
    await layout(how);
    expect((await readdir(folder)).sort()).toEqual(['blobs', 'index.json', 'oci-layout']);
    expect(JSON.parse(await readFile(join(folder, 'oci-layout'), 'utf8'))).toEqual({ imageLayoutVersion: '1.0.0' });
    const index = JSON.parse(await readFile(join(folder, 'index.json'), 'utf8')) as { manifests: [Descriptor] };
    expect(index).toMatchObject({ annotations: { 'org.criu.checkpoint.container.name': 'main' } });
    const [described] = index.manifests;
    expect(described).toMatchObject({
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      platform: { os: 'linux' },
    });
    const manifest = (await json(described.digest)) as unknown as { config: Descriptor; layers: [Descriptor] };
    expect(manifest).toMatchObject({ schemaVersion: 2, annotations: { 'org.criu.checkpoint.container.name': 'main' } });
    const [layer] = manifest.layers;
    const suffix = { none: '', gzip: '+gzip', zstd: '+zstd' }[how];
    expect(layer.mediaType).toBe(`application/vnd.oci.image.layer.v1.tar${suffix}`);
    for (const { digest, size } of [described, manifest.config, layer]) {
      const bytes = await blob(digest);
      expect([sha256(bytes), bytes.length]).toEqual([digest, size]);
    }
    expect((await readdir(join(folder, 'blobs/sha256'))).length).toBe(3);
    const unpacked = { none: (bytes: Buffer) => bytes, gzip: gunzipSync, zstd: zstdDecompressSync }[how];
    expect(await json(manifest.config.digest)).toMatchObject({
      os: 'linux',
      rootfs: { type: 'layers', diff_ids: [sha256(Buffer.from(unpacked(await blob(layer.digest))))] },
    });
    const archive = (await archiveIn(folder)) ?? '';
    expect([...(await readArchive(archive, undefined)).sums.keys()]).toEqual(['spec.dump']);
  },
);

describe('no archive is found in', () => {
  test('a folder that is no layout', async () => {
    expect(await archiveIn(folder)).toBeUndefined();
  });

  test.each([
    ['two images', { manifests: [{ digest: `sha256:${'0'.repeat(64)}` }, { digest: `sha256:${'1'.repeat(64)}` }] }],
    ['a digest that is a path', { manifests: [{ digest: 'sha256:../../../etc/passwd' }] }],
    ['another kind of digest', { manifests: [{ digest: `sha512:${'0'.repeat(128)}` }] }],
    ['no images', { manifests: null }],
    ['a blob that is not there', { manifests: [{ digest: `sha256:${'0'.repeat(64)}` }] }],
  ])('one with %s', async (_, index) => {
    await writeFile(join(folder, 'oci-layout'), '{}');
    await writeFile(join(folder, 'index.json'), JSON.stringify(index));
    await expect(archiveIn(folder)).rejects.toMatchObject({ reason: 'BAD_ARCHIVE' });
  });

  test('one whose index is a folder, or no JSON', async () => {
    await writeFile(join(folder, 'oci-layout'), '{}');
    await mkdir(join(folder, 'index.json'));
    await expect(archiveIn(folder)).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/index\.json/),
    });
    await rm(join(folder, 'index.json'), { recursive: true });
    await writeFile(join(folder, 'index.json'), '[');
    await expect(archiveIn(folder)).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/index\.json/),
    });
  });
});

test('an image of a pod has no name of a container, by which others would start one from it', () => {
  const told = Object.keys(podAnnotations({ id: '1', name: 'pod', namespace: 'default' }));
  expect(told.filter((name) => name.includes('container') || name.endsWith('checkpoint.name'))).toEqual([]);
});
