import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readArguments, readEnvironment } from '../../src/criu/arguments.ts';
import { type CheckpointImages, readImages } from '../../src/criu/checkpoint.ts';
import { decodeImage } from '../../src/criu/image.ts';
import { kindOf } from '../../src/criu/kinds.ts';
import type { Process } from '../../src/criu/process.ts';
import { flatten } from '../../src/criu/process-tree.ts';
import { folderSource, type ImageSource } from '../../src/criu/source.ts';
import { labDown, labExec, labUp } from '../lab.ts';
import { runPod } from '../pods.ts';
import { fill, RedisConnection } from '../redis.ts';
import { nodeNamed } from '../scenario.ts';

/*
 * What CRIU itself has written of a Redis with data and a connection, on a real node.
 */

const NAME = 't-criu-images';

/** A checkpoint in a folder that this machine can read. */
interface Saved {
  folder: string;
  source: ImageSource;
  images: CheckpointImages;
  process: Process;
}

let box: Saved;
let folder: string;
let source: ImageSource;
let images: CheckpointImages;
let redis: Process;
let client: { address: string; port: number };

beforeAll(async () => {
  const lab = await labUp({ name: NAME, nodes: 1 });
  const node = nodeNamed(lab, 'a');
  const pod = await runPod(node.runtimeSocket, node.pid, { name: 'redis', image: lab.images.redis });
  using connection = await RedisConnection.open(pod.address);
  await fill(connection, 8);
  const addressed = String(await connection.send('CLIENT', 'INFO'));
  const [, address = '', port = ''] = /\baddr=(.+?):(\d+) /.exec(addressed) ?? [];
  client = { address, port: Number(port) };
  ({ folder, source, images, process: redis } = await save(node.pid, pod.container, 'redis-server'));

  const sleep = { name: 'box', image: lab.images.busybox, command: ['sleep', '1000'] };
  const { container } = await runPod(node.runtimeSocket, node.pid, sleep);
  box = await save(node.pid, container, 'sleep');
});
afterAll(() => labDown(NAME));

async function save(nodePid: number, container: string, comm: string): Promise<Saved> {
  const output = `/var/tmp/${comm}`;
  await labExec(NAME, 'a', [
    ...['gantry', 'checkpoint', container, '--output', output],
    ...['--leave-running', '--tcp-established'],
  ]);
  const here = `/proc/${nodePid}/root${output}`;
  const folder = join(here, 'checkpoint');
  const source = folderSource(folder, here);
  const images = await readImages(source);
  const process = flatten(images.processes).find((one) => one.comm === comm);
  if (process === undefined) throw new Error(`no process ${comm} in ${folder}`);
  return { folder, source, images, process };
}

test('every image of messages can be decoded', async () => {
  const known = (await readdir(folder)).filter((file) => kindOf(file) !== undefined);
  expect(known).toEqual(expect.arrayContaining(['inventory.img', 'core-1.img', 'files.img', 'pagemap-1.img']));
  for (const file of known) expect(() => decodeImage(file, Buffer.from([])), file).toThrow(/magic number/);
  for (const file of known) expect(decodeImage(file, await readFile(join(folder, file))).kind).toBe(kindOf(file)?.kind);
});

test('the process tree has the server, its threads and its command line', async () => {
  expect(redis).toMatchObject({ ppid: expect.any(Number), state: 'alive', memory: { pageSize: 4096 } });
  expect(redis.memory?.program).toMatch(/redis-server$|redis-check-rdb$/);
  expect(redis.threads.map(({ comm }) => comm)).toEqual(expect.arrayContaining(['redis-server', 'bio_close_file']));
  expect(await readArguments(source, redis)).toEqual({ words: [expect.stringMatching(/redis-server .*:6379/)] });
});

test('the environment is told, of a process that has not written its title over it', async () => {
  expect(await readArguments(box.source, box.process)).toEqual({ words: ['sleep', '1000'] });
  expect(await readEnvironment(box.source, box.process)).toEqual({
    words: expect.arrayContaining(['GANTRY_TEST=a value with spaces']),
  });
  expect(await readEnvironment(source, redis)).toEqual({ missing: 'the process has overwritten it' });
});

test('the port is listened on, and the connection has both addresses', () => {
  const listening = images.sockets.filter(({ listening }) => listening);
  expect(listening.map(({ protocol, source }) => `${protocol} ${source?.port}`)).toContain('tcp 6379');
  expect(images.sockets).toContainEqual(
    expect.objectContaining({
      protocol: 'tcp',
      state: 'ESTABLISHED',
      source: expect.objectContaining({ port: 6379 }),
      peer: client,
      queues: { receivedBytes: 0, sentBytes: 0 },
    }),
  );
  const ids = new Set(images.sockets.map(({ id }) => id));
  const open = redis.files.filter(({ kind }) => kind === 'socket');
  expect(open.length).toBeGreaterThan(1);
  expect(open.every(({ id }) => ids.has(id))).toBe(true);
});

test('the memory of all mappings and segments is that of the pages images', async () => {
  const pages = (await readdir(folder)).filter((file) => /^pages-\d+\.img$/.test(file));
  const sizes = await Promise.all(pages.map(async (file) => (await stat(join(folder, file))).size));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  expect(images.memoryBytes).toBe(total);
  expect(images.memoryBytes).toBeGreaterThan(8 * 1024 * 1024);
  const mapped = flatten(images.processes).flatMap(({ memory }) => memory?.mappings.map(({ bytes }) => bytes) ?? []);
  const shared = images.sharedMemory.map(({ bytes }) => bytes);
  expect([...mapped, ...shared].reduce((sum, bytes) => sum + bytes, 0)).toBe(total);
  const kinds = new Set(redis.memory?.mappings.map(({ kind }) => kind));
  expect([...kinds]).toEqual(expect.arrayContaining(['anonymous', 'file', 'stack', 'vdso']));
});

test('credentials, limits, files, mounts, cgroups and namespaces are those of a container', () => {
  expect(redis.credentials).toMatchObject({ seccomp: expect.any(String), uids: { real: expect.any(Number) } });
  expect(redis.limits.map(({ resource }) => resource)).toContain('nofile');
  expect(redis.files.slice(0, 3).map(({ fd }) => fd)).toEqual([0, 1, 2]);
  expect(new Set(redis.files.map(({ kind }) => kind))).toEqual(expect.toSatisfy((kinds) => kinds.has('epoll')));
  expect(images.mounts.map(({ mountPoint }) => mountPoint)).toEqual(expect.arrayContaining(['/', '/proc', '/dev']));
  expect(images.mounts.some(({ external }) => external)).toBe(true);
  expect(images.namespaces.filter(({ dumped }) => dumped).map(({ kind }) => kind)).toEqual(
    expect.arrayContaining(['mnt', 'pid', 'uts']),
  );
  expect(images.cgroups.sets.length).toBeGreaterThan(0);
});

test('architecture, facts of CRIU and the statistics of the dump are told', () => {
  expect(images.architecture).toBe({ x64: 'X86_64', arm64: 'AARCH64' }[process.arch as 'x64']);
  expect(images.criu).toMatchObject({ imageVersion: 2, networkLock: expect.any(String), tcpClosed: false });
  expect(images.statistics.dump?.frozenUs).toBeGreaterThan(0);
  const { pagesWritten = 0n, sharedPagesWritten = 0n } = images.statistics.dump ?? {};
  expect(Number(pagesWritten + sharedPagesWritten) * 4096).toBe(images.memoryBytes);
});
