import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { formatJson, formatTable } from '../cli/output.ts';
import { core } from '../criu/images.fixture.ts';
import { type FixtureOptions, layer, writeArchive } from './checkpoint.fixture.ts';
import { type Inspection, inspect } from './inspection.ts';
import { Checkpoint } from './open.ts';
import { tablesOf } from './text.ts';

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-inspect-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function inspectOne(options: FixtureOptions = {}, environment = false): Promise<Inspection> {
  await using checkpoint = await Checkpoint.open(await writeArchive(join(folder, 'a.tar'), options));
  return await inspect(checkpoint, { environment });
}

const ALL = {
  memory: true,
  files: true,
  sockets: true,
  mounts: true,
  volumes: true,
  environment: true,
  statistics: true,
};
const NOTHING = {
  memory: false,
  files: false,
  sockets: false,
  mounts: false,
  volumes: false,
  environment: false,
  statistics: false,
};

function textOf(inspection: Inspection, sections = ALL): string {
  return tablesOf(inspection, sections)
    .map(({ title = '', rows }) => `${title}\n${formatTable(rows)}`)
    .join('\n');
}

test('a checkpoint of gantry tells whose it is', async () => {
  expect(await inspectOne()).toMatchObject({
    maker: 'gantry',
    container: { id: 'c0ffee', name: 'main' },
    pod: { id: '5a4db0', namespace: 'default', name: 'server-0' },
    addresses: ['10.108.1.2'],
    image: { name: 'server:1', id: 'sha256:1' },
    node: 'a',
    created: '2026-11-20T10:00:00.000Z',
    criu: '4.2.1',
    kernel: '6.18.0',
    architecture: 'x64',
    connections: 'established',
    packing: 'plain',
  });
});

describe('an archive of', () => {
  const foreign = (spec: unknown, config: unknown) =>
    inspectOne({
      manifest: undefined,
      members: { 'spec.dump': JSON.stringify(spec), 'config.dump': JSON.stringify(config) },
    });

  test('containerd tells what its annotations say', async () => {
    const annotations = {
      'io.kubernetes.cri.container-name': 'main',
      'io.kubernetes.cri.sandbox-id': '5a4db0',
      'io.kubernetes.cri.sandbox-name': 'server-0',
      'io.kubernetes.cri.sandbox-namespace': 'default',
      'io.kubernetes.cri.image-name': 'docker.io/library/server:1',
    };
    const config = { id: 'c0ffee', checkpointedTime: '2026-11-20T10:00:00.123456789Z', rootfsImageRef: 'sha256:1' };
    expect(await foreign({ annotations }, config)).toMatchObject({
      maker: 'containerd',
      container: { id: 'c0ffee', name: 'main' },
      pod: { id: '5a4db0', namespace: 'default', name: 'server-0' },
      image: { name: 'docker.io/library/server:1', id: 'sha256:1' },
      created: '2026-11-20T10:00:00.123456789Z',
      architecture: 'x86_64',
      node: '',
    });
  });

  test('CRI-O, likewise', async () => {
    const annotations = {
      'io.kubernetes.cri-o.ImageName': 'server:1',
      'io.kubernetes.cri-o.SandboxID': '5a4db0',
      'io.kubernetes.pod.name': 'server-0',
      'io.kubernetes.pod.namespace': 'default',
      'io.kubernetes.container.name': 'main',
    };
    expect(await foreign({ annotations }, {})).toMatchObject({
      maker: 'CRI-O',
      container: { name: 'main' },
      pod: { id: '5a4db0', namespace: 'default', name: 'server-0' },
      image: { name: 'server:1' },
    });
  });

  test('Podman, which knows of no pod', async () => {
    const config = { id: 'c0ffee', name: 'jolly', rootfsImageName: 'server:1', runtime: 'crun' };
    expect(await foreign({ annotations: { 'io.container.manager': 'libpod' } }, config)).toMatchObject({
      maker: 'Podman',
      container: { id: 'c0ffee', name: 'jolly' },
      pod: { namespace: '', name: '' },
      runtime: 'crun',
    });
  });

  test('anybody, whose configuration is no JSON, is an error that says which', async () => {
    const broken = inspectOne({ manifest: undefined, members: { 'config.dump': '{' } });
    await expect(broken).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/config.dump is no JSON/),
    });
  });
});

test('processes come with their command lines, in a tree', async () => {
  const [server] = (await inspectOne()).processes;
  expect(server).toMatchObject({ pid: 1, commandLine: { words: ['server', '--port', '6379'] } });
  expect(server?.children[0]).toMatchObject({ pid: 7, state: 'zombie', commandLine: { missing: /has ended/ } });
});

test('the environment is told only when it was asked for', async () => {
  expect((await inspectOne()).processes[0]).not.toHaveProperty('environment');
  expect((await inspectOne({}, true)).processes[0]?.environment).toEqual({ words: ['HOME=/data', 'EMPTY='] });
});

test('as JSON it has addresses as text, other numbers as numbers, and no page map', async () => {
  const json = formatJson(await inspectOne());
  expect(json).not.toContain('pageMap');
  expect(json).not.toContain('HOME=');
  const { processes, statistics } = JSON.parse(json) as Inspection;
  expect(processes[0]?.memory?.mappings[0]).toMatchObject({ start: '0x1000', end: '0x3000', offset: 0, bytes: 4096 });
  expect(processes[0]?.memory?.argumentRange.start).toBe('0x7000');
  expect(statistics.dump).toMatchObject({ pagesScanned: 100, frozenUs: 20 });
});

test('sockets come with who holds them', async () => {
  const { sockets } = await inspectOne();
  expect(sockets.map(({ state, heldBy }) => [state, heldBy])).toEqual([
    ['LISTEN', [{ pid: 1, fd: 6 }]],
    ['ESTABLISHED', [{ pid: 1, fd: 7 }]],
    ['LISTEN', []],
  ]);
});

describe('as text', () => {
  test('it has facts and processes, and what was asked for', async () => {
    const inspection = await inspectOne();
    const short = textOf(inspection, NOTHING);
    expect(short).toMatch(/^container +main \(c0ffee\)$/m);
    expect(short).toMatch(/^connections +1 saved \(--tcp established\)$/m);
    expect(short).toMatch(/^1 +server --port 6379 +12\.0 KiB +2 +999 +4$/m);
    expect(short).toMatch(/^7 +└─ \[ended\] \(zombie\) +- /m);
    expect(short).not.toContain('Sockets');
    expect(textOf(inspection, { ...NOTHING, sockets: true })).toMatch(
      /^tcp6 +ESTABLISHED +\[::ffff:10\.0\.0\.1\]:6379 +\[::ffff:10\.0\.0\.1\]:40000 +2 in, 3 out +1:7$/m,
    );
  });

  test('it has everything when everything was asked for', async () => {
    const text = textOf(await inspectOne({}, true));
    expect(text).toMatch(/^1 +0x1000-3000 +r-xp +file +8\.0 KiB +4\.0 KiB +\/usr\/bin\/server$/m);
    expect(text).toMatch(/^- +- +- +shared +- +4\.0 KiB +segment 77$/m);
    expect(text).toMatch(/^1 +0 +file +\/data +17 +- +O_RDWR O_APPEND$/m);
    expect(text).toMatch(/^unix stream +LISTEN +\/run\/server\.sock +-/m);
    expect(text).toMatch(/^\/ +overlay +runtime +none/m);
    expect(text).toMatch(/^1 +HOME=\/data$/m);
    expect(text).toMatch(/^pages scanned +100$/m);
  });

  test('it moves no cursor, whatever the names are', async () => {
    const images = { 'core-7.img': core('\x1b[2J\u202eexe', { ids: undefined }, { task_state: 6 }) };
    const text = textOf(await inspectOne({ images }));
    expect(text).toContain('\\x1b[2J\\u{202e}exe');
    expect(text).not.toContain('\x1b');
  });
});

test('volumes are told with what was saved of them, and those that were not', async () => {
  const sparse = new Map([['GNU.sparse.realsize', Buffer.from('4096')]]);
  const members = {
    'volumes/cache.tar': layer(
      { name: './', type: 'folder' },
      { name: './one', content: '123' },
      { name: './sub/', type: 'folder' },
      { name: './sub/sparse', content: '1', pax: sparse },
    ),
    'volumes/other.tar': layer({ name: './', type: 'folder' }),
    'devshm-checkpoint.tar': layer({ name: './shared', content: 'x' }),
  };
  const volumes = [
    { name: 'cache', path: '/cache', hostPath: '/node/cache' },
    { name: '', path: '/config', hostPath: '/node/config' },
    // In another container of the pod.
    { name: 'shared', path: '/shared', hostPath: '/node/shared' },
  ];
  const inspection = await inspectOne({ members, manifest: { volumes } });
  expect(inspection.volumes).toEqual([
    { ...volumes[0], content: { files: 2, bytes: 4099 } },
    volumes[1],
    volumes[2],
    { name: 'other', path: '', hostPath: '', content: { files: 0, bytes: 0 } },
    { name: 'shm', path: '/dev/shm', hostPath: '', content: { files: 1, bytes: 1 } },
  ]);
  expect(textOf(inspection)).toMatch(/^volumes +3 saved, 4\.0 KiB, 2 left out$/m);
  expect(textOf(inspection)).toMatch(/^cache +\/cache +2 +4\.0 KiB +\/node\/cache$/m);
});
