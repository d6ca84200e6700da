import { generateIdentity, identityToRecipient } from 'age-encryption';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CheckpointContainerRequest, RuntimeServiceService } from '../../src/gen/cri.ts';
import type { Difference } from '../../src/inspect/diff.ts';
import type { Inspection } from '../../src/inspect/inspection.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { connectSocket, unary } from '../../src/runtime/grpc.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { type Pod, runPod } from '../pods.ts';
import { fill, RedisConnection } from '../redis.ts';
import { nodeNamed } from '../scenario.ts';

const NAME = 't-inspect';
const FOLDER = '/var/lib/gantry/checkpoints';
const KEYS = '/var/tmp/key.txt';

let lab: LabEnvironment;
let node: NodeEnvironment;
let pod: Pod;
let redis: RedisConnection;
let local: number;

const shell = async (script: string) => (await labExec(NAME, 'a', ['sh', '-c', script])).stdout;
const gantry = (...args: string[]) => labExec(NAME, 'a', ['gantry', ...args], { reject: false });
const json = async <T>(...args: string[]) =>
  JSON.parse((await labExec(NAME, 'a', ['gantry', ...args, '-o', 'json'])).stdout) as T;

/** A Redis with a connection, saved before and after a file and some keys were written. */
beforeAll(async () => {
  lab = await labUp({ name: NAME, nodes: 1 });
  node = nodeNamed(lab, 'a');
  const command = ['redis-server', '--save', '', '--protected-mode', 'no'];
  pod = await runPod(node.runtimeSocket, node.pid, { name: 'redis', image: lab.images.redis, command });
  redis = await RedisConnection.open(pod.address);
  await fill(redis, 4);
  local = Number(/addr=[\d.]+:(\d+)/.exec(String(await redis.send('CLIENT', 'INFO')))?.[1]);
  const identity = await generateIdentity();
  await shell(`mkdir -p ${FOLDER}; printf '%s\\n' '# a key' ${identity} >${KEYS}`);
  await save('1.tar');
  await redis.send('SET', 'since', 'the first');
  await fill(redis, 1);
  using cri = new Cri(node.runtimeSocket);
  const { pid } = await cri.describe(pod.container);
  await shell(`nsenter -t ${pid} -m -r -w sh -c 'mkdir /made; echo since >/made/file'`);
  await save('2.tar');
  await save('3.tar.gz', '--compress', 'gzip');
  await save('4.tar.age', '--compress', 'zstd', '--recipient', await identityToRecipient(identity));
  await labExec(NAME, 'a', [
    'gantry',
    'checkpoint',
    pod.container,
    '--output',
    `${FOLDER}/5`,
    '--leave-running',
    '--tcp',
    'established',
  ]);
  const ofPod = ['--archive', '/var/tmp/pod.tar', '--leave-running', '--tcp', 'established'];
  await labExec(NAME, 'a', ['gantry', 'checkpoint', pod.sandbox, ...ofPod]);
  const connection = connectSocket(node.runtimeSocket);
  const request = CheckpointContainerRequest.fromPartial({ containerId: pod.container, location: `${FOLDER}/6.tar` });
  redis.close();
  await unary(connection, RuntimeServiceService.checkpointContainer, request, { timeoutMs: 60_000 });
  connection.close();
});
afterAll(async () => {
  redis?.close();
  await labDown(NAME);
});

async function save(name: string, ...how: string[]): Promise<void> {
  const args = [
    'checkpoint',
    pod.container,
    '--archive',
    `${FOLDER}/${name}`,
    '--leave-running',
    '--tcp',
    'established',
  ];
  await labExec(NAME, 'a', ['gantry', ...args, ...how]);
}

describe('gantry inspect', () => {
  test.each(['1.tar', '3.tar.gz', '4.tar.age', '5'])('shows what is in %s', async (name) => {
    const inspection = await json<Inspection>('inspect', `${FOLDER}/${name}`, '--identity', KEYS);
    expect(inspection).toMatchObject({
      maker: 'gantry',
      container: { id: pod.container, name: 'redis' },
      pod: { id: pod.sandbox, namespace: 'default', name: 'redis' },
      image: { name: lab.images.redis },
      addresses: [pod.address],
      connections: 'established',
      architecture: 'x64',
    });
    const [server] = inspection.processes;
    expect(server).toMatchObject({ pid: 1, comm: 'redis-server' });
    // Redis has written its title over its command line.
    expect(server?.commandLine).toMatchObject({ words: [expect.stringMatching(/redis-server \*:6379/)] });
    expect(server?.memory?.bytes).toBeGreaterThan(4 * 1024 * 1024);
    const inet = inspection.sockets.filter(({ source }) => source?.port === 6379);
    expect(inet.filter(({ listening }) => listening).length).toBeGreaterThan(0);
    const open = inet.find(({ state }) => state === 'ESTABLISHED');
    expect(open?.source?.address).toContain(pod.address);
    expect(open?.peer?.port).toBe(local);
    expect(open?.heldBy).toMatchObject([{ pid: 1 }]);
    expect(inspection.mounts.map(({ mountPoint }) => mountPoint)).toContain('/proc');
    expect(Number(inspection.statistics.dump?.pagesWritten)).toBeGreaterThan(1000);
    expect(await shell('ls -A /tmp | grep -c gantry-unpacked || true')).toBe('0');
  });

  test('says it as text, secrets only when they are asked for', async () => {
    const { stdout } = await gantry('inspect', `${FOLDER}/1.tar`, '--sockets', '--files');
    expect(stdout).toMatch(/^container +redis \(/m);
    expect(stdout).toMatch(/^1 +.*redis-server \*:6379/m);
    expect(stdout).toMatch(/^tcp +LISTEN +0\.0\.0\.0:6379 +-/m);
    expect(stdout).toMatch(new RegExp(`^tcp +ESTABLISHED +${pod.address}:6379 +[0-9.]+:${local} `, 'm'));
    expect(stdout).toMatch(/^1 +\d+ +epoll/m);
    expect(stdout).not.toContain('a value with spaces');
    const all = (await gantry('inspect', `${FOLDER}/1.tar`, '--all')).stdout;
    for (const title of ['Memory', 'Open files, without sockets', 'Sockets', 'Mounts', 'Environment', 'The dump']) {
      expect(all).toMatch(new RegExp(`^${title}$`, 'm'));
    }
  });

  test("shows one of containerd's own making as far as it tells", async () => {
    const inspection = await json<Inspection>('inspect', `${FOLDER}/6.tar`);
    expect(inspection).toMatchObject({
      maker: 'containerd',
      container: { id: pod.container, name: 'redis' },
      pod: { namespace: 'default', name: 'redis' },
      processes: [{ pid: 1, comm: 'redis-server' }],
    });
  });

  test('shows every container of a pod', async () => {
    const whole = await json<{ pod: object; containers: Inspection[] }>('inspect', '/var/tmp/pod.tar');
    expect(whole.pod).toMatchObject({ id: pod.sandbox, name: 'redis', namespace: 'default' });
    expect(whole.containers.map(({ container }) => container.id)).toEqual([pod.container]);
    expect(await gantry('verify', '/var/tmp/pod.tar')).toMatchObject({ exitCode: 0 });
    expect((await json<Difference>('diff', `${FOLDER}/2.tar`, '/var/tmp/pod.tar')).layer.added).toEqual([]);
  });

  test('still shows slots, and says what it does not find', async () => {
    expect(await gantry('inspect', 'nobody')).toMatchObject({
      exitCode: 3,
      stderr: expect.stringMatching(/no slot nobody/),
    });
    expect(await gantry('inspect', './nobody')).toMatchObject({
      exitCode: 3,
      stderr: expect.stringMatching(/no checkpoint .\/nobody/),
    });
  });
});

test.each(['2.tar', '3.tar.gz', '4.tar.age', '5'])('gantry diff shows what was written before %s', async (name) => {
  const difference = await json<Difference>('diff', `${FOLDER}/1.tar`, `${FOLDER}/${name}`, '--identity', KEYS);
  expect(difference.warnings).toEqual([]);
  expect(difference.processes).toEqual({ added: [], removed: [] });
  expect(difference.sockets).toEqual({ added: [], removed: [] });
  const [server] = difference.memory;
  expect(server).toMatchObject({ pid: 1, comm: 'redis-server', pageSize: 4096, unknown: 0 });
  expect(server?.changed).toBeGreaterThan(100);
  // A mebibyte of new values took the place of the old ones; the other three are the same.
  expect(server?.same).toBeGreaterThan(500);
  expect(difference.layer.added).toContainEqual({ path: 'made/file', type: 'file', sizeBytes: 6 });
  expect(difference.layer.removed).toEqual([]);
});

describe('gantry verify', () => {
  test('finds all of them sound', async () => {
    const paths = ['1.tar', '2.tar', '3.tar.gz', '4.tar.age', '5', '6.tar'].map((name) => `${FOLDER}/${name}`);
    const { stdout, exitCode } = await gantry('verify', ...paths, '--identity', KEYS);
    expect(stdout.split('\n').map((line) => line.replace(/ \(.*/, ''))).toEqual(paths.map((path) => `${path}: sound`));
    expect(exitCode).toBe(0);
  });

  test('finds one flipped byte, and goes on with the next', async () => {
    await shell(
      `cp ${FOLDER}/1.tar /var/tmp/bad.tar; printf x | dd of=/var/tmp/bad.tar bs=1 seek=400000 conv=notrunc 2>/dev/null`,
    );
    const { stdout, stderr, exitCode } = await gantry('verify', '/var/tmp/bad.tar', `${FOLDER}/1.tar`);
    expect(exitCode).toBe(35);
    expect(stdout).toMatch(
      /^\/var\/tmp\/bad.tar: NOT SOUND: .*pages-1.img is not what its manifest says\n.*1.tar: sound/,
    );
    expect(stderr).toMatch(/pages-1.img is not what its manifest says/);
  });

  test('needs the key of what is encrypted', async () => {
    const { stdout, exitCode } = await gantry('verify', `${FOLDER}/4.tar.age`);
    expect([stdout, exitCode]).toEqual([expect.stringMatching(/not read: .*is encrypted/), 2]);
  });

  test('is ended by Ctrl-C, and leaves nothing', async () => {
    const script = `timeout --preserve-status -s INT 0.4 gantry verify ${`${FOLDER}/3.tar.gz `.repeat(50)}; echo $?; ls -A /tmp | grep -c gantry-unpacked`;
    expect((await shell(`${script} || true`)).split('\n').slice(-2)).toEqual(['130', '0']);
  });
});

test('gantry list shows them, and gantry prune removes the oldest', async () => {
  const { stdout } = await gantry('list');
  expect(stdout).toMatch(/^1\.tar +default\/redis +redis +\S+ +2\S+Z +[\d.]+ MiB +archive +yes$/m);
  expect(stdout).toMatch(/^3\.tar\.gz +\? +\? +\? +\? +[\d.]+ MiB +gzip +\?$/m);
  expect(stdout).toMatch(/^4\.tar\.age +\? .* encrypted +\?$/m);
  expect(stdout).toMatch(/^5 +default\/redis .* folder +yes$/m);
  expect((await gantry('list', FOLDER, '--verify', '--identity', KEYS)).stdout.match(/ sound$/gm)).toHaveLength(6);
  expect(await gantry('prune')).toMatchObject({
    exitCode: 2,
    stderr: expect.stringMatching(/--older-than, --keep and --max-size/),
  });
  const dry = await gantry('prune', '--keep', '2', '--dry-run');
  expect(dry.stdout).toMatch(/^3 would be removed, [\d.]+ MiB freed, 3 kept$/m);
  expect(await shell(`ls ${FOLDER}`)).toBe('1.tar\n2.tar\n3.tar.gz\n4.tar.age\n5\n6.tar');
  const result = await json<{ removed: { path: string }[]; freedBytes: number }>('prune', '--keep', '2');
  expect(result.removed.map(({ path }) => path)).toEqual(
    ['1.tar', '2.tar', '3.tar.gz'].map((name) => `${FOLDER}/${name}`),
  );
  expect(result.freedBytes).toBeGreaterThan(8 * 1024 * 1024);
  expect(await shell(`ls ${FOLDER}`)).toBe('4.tar.age\n5\n6.tar');
  expect((await gantry('prune', '--keep', '1')).stdout).toMatch(/^1 removed, [\d.]+ MiB freed, 2 kept$/m);
  expect(await shell(`ls ${FOLDER}`)).toBe('4.tar.age\n6.tar');
});
