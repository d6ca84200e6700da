import { createHash } from 'node:crypto';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Compression } from '../archive/layout.ts';
import { ArchiveOutput } from '../archive/output.ts';
import { podOptions } from '../archive/pod.ts';
import { ArchiveWriter } from '../archive/writer.ts';
import { writeArchive } from './checkpoint.fixture.ts';
import { inspect } from './inspection.ts';
import { Checkpoint, openAll } from './open.ts';
import { survey } from './survey.ts';
import { verify } from './verify.ts';

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-pod-'));
  await writePod('pod.tar', 'none');
  await writePod('pod.tar.gz', 'gzip');
  await writePod('bad.tar', 'none', true);
});
afterAll(() => rm(folder, { recursive: true }));

/** @param isFalse its manifest tells of other containers */
async function writePod(name: string, compression: Compression, isFalse = false): Promise<void> {
  const inner = join(folder, 'inner');
  const containers: Record<string, string> = {};
  await using file = await open(join(folder, name), 'w', 0o600);
  const output = await ArchiveOutput.open(file, compression, []);
  const writer = new ArchiveWriter(output);
  await writer.add('pod.options', podOptions({ main: 'main', sidecar: 'sidecar' }));
  for (const container of ['main', 'sidecar']) {
    await writeArchive(inner, { manifest: { container: { id: `id-${container}`, name: container, config: '' } } });
    await using checkpoint = await Checkpoint.open(inner);
    const manifest = (await checkpoint.members.text('gantry.json')) ?? '';
    containers[container] = isFalse ? '' : createHash('sha256').update(manifest).digest('hex');
    await writer.add(`${container}.tar`, await readFile(inner));
  }
  const pod = { id: '5a4db0', name: 'server-0', namespace: 'default' };
  await writer.add('gantry.json', JSON.stringify({ version: 2, created: '2026-11-20T10:00:00Z', pod, containers }));
  await writer.end();
  await output.end();
  await rm(inner);
}

test.each(['pod.tar', 'pod.tar.gz'])('every container of a pod is read, in %s', async (name) => {
  await using opened = await openAll(join(folder, name));
  expect(opened.pod?.pod.name).toBe('server-0');
  expect(opened.containers.map((one) => one.name)).toEqual(['main', 'sidecar']);
  for (const one of opened.containers) {
    expect((await verify(one)).compared).toBeGreaterThan(10);
    expect(await inspect(one)).toMatchObject({ container: { id: `id-${one.name}` }, processes: [{ comm: 'server' }] });
  }
});

test('one of them is opened by its name', async () => {
  await using one = await Checkpoint.open(join(folder, 'pod.tar'), { container: 'sidecar' });
  expect(one.manifest?.container.id).toBe('id-sidecar');
  const opened = Checkpoint.open(join(folder, 'pod.tar'));
  await expect(opened).rejects.toMatchObject({
    reason: 'USAGE',
    message: expect.stringMatching(/main, sidecar/),
    hint: expect.stringMatching(/--container/),
  });
  const unknown = Checkpoint.open(join(folder, 'pod.tar'), { container: 'other' });
  await expect(unknown).rejects.toMatchObject({ reason: 'NOT_FOUND' });
});

test('a pod whose manifest does not fit its containers is not opened', async () => {
  await expect(openAll(join(folder, 'bad.tar'))).rejects.toMatchObject({
    reason: 'BAD_ARCHIVE',
    message: expect.stringMatching(/main.tar is not what its manifest says/),
  });
});

test('a list says the names of its containers', async () => {
  const { found } = await survey(folder, { depth: 'everything' });
  expect(found.map(({ name, state, facts }) => [name, state, facts?.container.name])).toEqual([
    ['bad.tar', 'damaged', undefined],
    ['pod.tar', 'sound', 'main,sidecar'],
    ['pod.tar.gz', 'sound', 'main,sidecar'],
  ]);
});
