import { randomUUID } from 'node:crypto';
import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Metadata, type MethodDefinition } from '@grpc/grpc-js';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest';
import { fromAgent } from '../../src/cli/operation.ts';
import { ContainerConfig, NamespaceMode, PodSandboxConfig } from '../../src/gen/cri.ts';
import {
  AgentService,
  CheckpointRequest,
  type CheckReport,
  CheckRequest,
  type Event,
  type Finding,
  type Result,
} from '../../src/gen/gantry/v1/agent.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { connectSocket } from '../../src/runtime/grpc.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { nodeNamed } from '../scenario.ts';

/*
 * Each finding is provoked by a real program (test/programs), and what is said of it is compared with what CRIU does.
 */

const NAME = 't-check';
const PROGRAMS = join(import.meta.dirname, '../programs');
const POD_UID = '3d6f2b0e-0000-4000-8000-000000000000';

let lab: LabEnvironment;
let node: NodeEnvironment;
let cri: Cri;
/** PIDs of programs beside the containers, of one test. */
let beside: string[];
/** A pod for tests that do not need one of their own: a sandbox takes longer than all the rest. */
let shared: TestPod;

beforeAll(async () => {
  lab = await labUp({ name: NAME, nodes: 2 });
  node = nodeNamed(lab, 'a');
  cri = new Cri(node.runtimeSocket);
  shared = await TestPod.run('one');
});
afterAll(async () => {
  cri?.close();
  await labDown(NAME);
});

beforeEach(() => {
  beside = [];
});
afterEach(async () => {
  for (const { id } of await cri.listSandboxes()) if (id !== shared.sandbox) await cri.removeSandbox(id);
  for (const { id } of await cri.listContainers()) {
    await cri.stopContainer(id, 0);
    await cri.removeContainer(id);
  }
  // A flock has a child that has the lock, too.
  for (const pid of beside) await shell(`pkill -P ${pid}; kill ${pid}; true`);
  await shell('rm -rf /var/tmp/check /var/tmp/check-outside /var/lib/kubelet /etc/criu');
});

const shell = async (script: string) => (await labExec(NAME, 'a', ['sh', '-c', script])).stdout;

interface PodOptions {
  readonly network?: NamespaceMode;
  readonly pid?: NamespaceMode;
  readonly ipc?: NamespaceMode;
  readonly hasUserNamespace?: boolean;
  readonly runtimeHandler?: string;
  readonly labels?: Record<string, string>;
}

interface ContainerOptions {
  readonly tty?: boolean;
  readonly privileged?: boolean;
  readonly devices?: readonly string[];
  readonly mounts?: readonly { hostPath: string; containerPath: string }[];
}

interface Running {
  readonly sandbox: string;
  readonly container: string;
}

const range = { hostId: 100_000, containerId: 0, length: 65_536 };

/** A pod whose containers run one program each. */
class TestPod {
  readonly sandbox: string;
  readonly #config: PodSandboxConfig;
  readonly #namespaces: object;

  private constructor(sandbox: string, config: PodSandboxConfig, namespaces: object) {
    this.sandbox = sandbox;
    this.#config = config;
    this.#namespaces = namespaces;
  }

  static async run(name: string, options: PodOptions = {}): Promise<TestPod> {
    const { network = NamespaceMode.POD, pid = NamespaceMode.CONTAINER, ipc = NamespaceMode.POD } = options;
    const uid = randomUUID();
    const namespaces = {
      network,
      pid,
      ipc,
      ...(options.hasUserNamespace === true && {
        usernsOptions: { mode: NamespaceMode.POD, uids: [range], gids: [range] },
      }),
    };
    const config = PodSandboxConfig.fromPartial({
      metadata: { name, namespace: 'default', uid, attempt: 0 },
      hostname: network === NamespaceMode.NODE ? '' : name,
      logDirectory: `/var/log/pods/default_${name}_${uid}`,
      labels: options.labels ?? {},
      // A sandbox may only be privileged for containers that are, which costs nothing to those that are not.
      linux: { securityContext: { namespaceOptions: namespaces, privileged: options.hasUserNamespace !== true } },
    });
    return new TestPod(await cri.runSandbox(config, options.runtimeHandler ?? ''), config, namespaces);
  }

  /** Starts programs of test/programs, as one, and waits until it stays as it is. Errors say what it has printed. */
  async start(name: string, program: string | readonly string[], options: ContainerOptions = {}): Promise<Running> {
    const programs = typeof program === 'string' ? [program] : program;
    const config = ContainerConfig.fromPartial({
      metadata: { name, attempt: 0 },
      image: { image: lab.images.tools },
      command: ['perl', '-e', await source(...programs)],
      logPath: `${name}/0.log`,
      tty: options.tty ?? false,
      mounts: [...(options.mounts ?? [])],
      devices: (options.devices ?? []).map((path) => ({ hostPath: path, containerPath: path, permissions: 'rwm' })),
      linux: { securityContext: { namespaceOptions: this.#namespaces, privileged: options.privileged ?? false } },
    });
    const container = await cri.createContainer(this.sandbox, config, this.#config);
    await cri.startContainer(container);
    const { pid } = await cri.describe(container);
    const isReady = () =>
      access(`/proc/${node.pid}/root/proc/${pid}/root/ready`).then(
        () => true,
        () => false,
      );
    for (let round = 0; round < 100; round++) {
      if (await isReady()) return { sandbox: this.sandbox, container };
      await sleep(20);
    }
    throw new Error(
      `${programs.join(', ')} is not ready: ${await shell(`cat ${this.#config.logDirectory}/${name}/0.log`)}`,
    );
  }
}

/** One program of several, each with its arguments; only the last stays. */
async function source(...programs: readonly string[]): Promise<string> {
  const parts = programs.map(async (program) => {
    const [file = '', ...args] = program.split(' ');
    const text = await readFile(join(PROGRAMS, `${file}.pl`), 'utf8');
    const given = args.length === 0 ? '' : `@ARGV = qw(${args.join(' ')});`;
    return `${given}\n{\n${text.replace(/^stay\(\);$/m, '')}\n}`;
  });
  return [await readFile(join(PROGRAMS, 'prelude.pl'), 'utf8'), ...(await Promise.all(parts)), 'stay();'].join('\n');
}

const one = (program: string | readonly string[], options: ContainerOptions = {}): Promise<Running> =>
  shared.start('main', program, options);

/** One operation of node a's agent. Throws the agent's GantryError. */
async function operate<Request>(method: MethodDefinition<Request, Event>, request: Request): Promise<Result> {
  const client = connectSocket(node.agentSocket);
  const { path, requestSerialize, responseDeserialize } = method;
  try {
    const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, new Metadata());
    for await (const event of call as AsyncIterable<Event>) if (event.result !== undefined) return event.result;
    throw new Error('the agent ended the call without a result');
  } catch (error) {
    throw fromAgent(error, node.agentSocket);
  } finally {
    client.close();
  }
}

async function check(target: string, request: Partial<CheckRequest> = {}): Promise<CheckReport> {
  const full = CheckRequest.fromPartial({ target, windowSeconds: 0, bandwidthMbit: 1000, ...request });
  const { check: report } = await operate(AgentService.check, full);
  if (report === undefined) throw new Error('there is no report');
  return report;
}

/** "saved", or why not. */
async function save(container: string): Promise<string> {
  const request = { container, output: '/var/tmp/check', leaveRunning: true, tcp: 'established' };
  return operate(AgentService.checkpoint, CheckpointRequest.fromPartial(request)).then(
    () => 'saved',
    (error: unknown) => String(error),
  );
}

const findingsOf = ({ findings, containers }: CheckReport): Finding[] => [
  ...findings,
  ...containers.flatMap((each) => each.findings),
];

/** Those that are more than a remark, as "severity id". */
const forcing = (report: CheckReport): string[] =>
  findingsOf(report).flatMap(({ severity, id }) => (severity === 'hot' ? [] : [`${severity} ${id}`]));

function found(report: CheckReport, id: string): Finding {
  const finding = findingsOf(report).find((each) => each.id === id);
  if (finding === undefined) throw new Error(`no ${id} among ${findingsOf(report).map((each) => each.id)}`);
  return finding;
}

/** Starts a program on node a, beside the containers, until the test's end. */
async function outside(...command: string[]): Promise<void> {
  const script = '"$@" >/dev/null 2>&1 </dev/null & echo $!';
  beside.push((await labExec(NAME, 'a', ['sh', '-c', script, 'sh', ...command])).stdout);
}

function skip(context: TestContext, reason: string): never {
  console.warn(`${context.task.name}: not tried, ${reason}`);
  return context.skip(reason);
}

test('what CRIU can save is not complained about, and a checkpoint works', async () => {
  const { container } = await one(['harmless', 'sockets-unbound', 'memory', 'deleted-file 1', 'tasks zombie']);
  const report = await check(container);
  expect(forcing(report)).toEqual([]);
  expect(report).toMatchObject({
    verdict: 'hot',
    node: 'a',
    pod: 'one',
    containers: [{ name: 'main', verdict: 'hot' }],
  });
  expect(found(report, 'zombie-task')).toMatchObject({
    severity: 'hot',
    seen: expect.stringMatching(/perl \(PID \d+\)/),
  });
  expect(await save(container)).toBe('saved');
});

test('what is lost makes it warm, and a checkpoint works', async () => {
  const { container } = await one(['sockets-raw', 'sockets-packet', 'sockets-ping', 'inotify']);
  const report = await check(container);
  expect(forcing(report).sort()).toEqual(['warm icmp-socket', 'warm inotify', 'warm packet-socket', 'warm raw-socket']);
  expect(found(report, 'raw-socket').seen).toBe('1 raw socket(s)');
  expect(found(report, 'packet-socket').seen).toBe('1 packet socket(s)');
  expect(found(report, 'icmp-socket').seen).toBe('1 ICMP socket(s)');
  expect(found(report, 'inotify').seen).toMatch(/anon_inode:inotify \(PID \d+, fd \d+\), 1 watch/);
  expect(report.verdict).toBe('warm');
  expect(await save(container)).toBe('saved');
});

describe('what CRIU cannot save makes it cold, and a checkpoint fails:', () => {
  test.each([
    ['io-uring', 'io-uring', /io_uring\] \(PID \d+, fd \d+\)/, /FDs from socket|io_uring/],
    ['userfaultfd', 'userfaultfd', /userfaultfd\] \(PID/, /userfaultfd/],
    ['seccomp-notify', 'seccomp-notify', /seccomp notify \(PID/, /seccomp notify/],
    ['sockets-mptcp', 'mptcp-socket', /^MPTCP \(PID \d+, fd 3\)/, /Unsupported proto 262/],
    ['sockets-vsock', 'other-socket', /VSOCK \(PID/, /Unknown socket/],
    ['sockets-netlink-unread', 'netlink-unread', /^1 netlink socket\(s\) with \d{3,} bytes/, /data to read/],
    ['deleted-file 2', 'deleted-file', /^\/tmp\/deleted \(PID \d+, fd 3\), 2\.0 MiB/, /ghost file/],
    ['deleted-name', 'deleted-name', /\/tmp\/one \(deleted\)/, /link remap/],
  ])('%s', async (program, id, seen, reason) => {
    const { container } = await one(program);
    const report = await check(container);
    expect(forcing(report)).toEqual([`cold ${id}`]);
    expect(found(report, id)).toMatchObject({
      seen: expect.stringMatching(seen),
      why: expect.any(String),
      todo: expect.any(String),
    });
    expect(report.verdict).toBe('cold');
    expect(report.predictions.filter(({ possible }) => possible).map(({ mode }) => mode)).toEqual(['cold']);
    expect(await save(container)).toMatch(reason);
  });

  test('connections that nobody accepts', async () => {
    const { container } = await one('sockets-in-flight');
    const report = await check(container);
    expect(forcing(report).sort()).toEqual(['cold connection-backlog', 'warm half-open-connection']);
    expect(found(report, 'connection-backlog').seen).toMatch(/2 at 127\.0\.0\.1:7002$/);
    expect(found(report, 'half-open-connection').seen).toMatch(/^connecting: 127\.0\.0\.1:7002/);
    expect(await save(container)).toMatch(/In-flight connection/);
  });

  test('a unix socket whose other end is outside', async () => {
    await shell('mkdir -p /var/tmp/check-outside');
    await outside('perl', '-e', await source('unix-server'), '/var/tmp/check-outside/socket');
    await shell('while [ ! -e /var/tmp/check-outside/socket ]; do sleep 0.02; done');
    const mounts = [{ hostPath: '/var/tmp/check-outside', containerPath: '/outside' }];
    const { container } = await one('unix-client', { mounts });
    const report = await check(container);
    expect(forcing(report)).toEqual(expect.arrayContaining(['cold external-unix-socket']));
    expect(found(report, 'external-unix-socket').seen).toMatch(/of 1 unix socket/);
    expect(await save(container)).toMatch(/External socket|external|ext-unix-sk/i);
  });
});

describe('of tasks', () => {
  // A dump is not tried: CRIU would wait for ever for the first two.
  test.each([
    ['tasks stopped', 'stopped-task', /^stopped by a signal: perl \(PID \d+\)$/],
    ['tasks traced', 'traced-task', /perl \(PID \d+\) by PID \d+/],
    ['uninterruptible', 'uninterruptible-task', /perl \(PID \d+\)/],
  ])('%s is found', async (program, id, seen) => {
    const { container } = await one(program);
    const report = await check(container);
    expect(forcing(report)).toEqual([`cold ${id}`]);
    expect(found(report, id).seen).toMatch(seen);
  });

  test('one that was entered from outside is found, and is not in the checkpoint', async () => {
    const { container } = await one('harmless');
    await outside('ctr', '-n', 'k8s.io', 'task', 'exec', '--exec-id', 'session', container, 'sleep', '1000');
    await shell('while ! pgrep -x sleep >/dev/null; do sleep 0.02; done');
    const report = await check(container);
    expect(forcing(report)).toEqual(['warm exec-session']);
    expect(found(report, 'exec-session').seen).toMatch(/^1 process\(es\) entered from outside: sleep \(PID \d+\)$/);
    expect(await save(container)).toBe('saved');
    const images = (await shell('ls /var/tmp/check/checkpoint')).split('\n');
    expect(images.filter((file) => file.startsWith('core-'))).toEqual(['core-1.img']);
  });
});

describe('of the pod', () => {
  test.each([
    ['the node’s network', { network: NamespaceMode.NODE }, 'no host-network', 'no'],
    ['the node’s IPC', { ipc: NamespaceMode.NODE }, 'cold host-ipc', 'cold'],
    ['the node’s processes', { pid: NamespaceMode.NODE }, 'cold host-pid', 'cold'],
    ['one PID namespace', { pid: NamespaceMode.POD }, 'cold shared-pid', 'cold'],
  ])('%s is found', async (_, options, finding, verdict) => {
    const pod = await TestPod.run('pod', options);
    const { container } = await pod.start('main', 'harmless');
    const report = await check(container);
    expect(forcing(report)).toEqual([finding]);
    expect(report.verdict).toBe(verdict);
  });

  test('a user namespace is found', async (context) => {
    const pod = await TestPod.run('pod', { hasUserNamespace: true }).catch((error: unknown) => error);
    if (!(pod instanceof TestPod)) return skip(context, `no pod with a user namespace runs here: ${pod}`);
    const started = await pod.start('main', 'harmless').catch((error: unknown) => error);
    if (started instanceof Error) return skip(context, `no container with a user namespace runs here: ${started}`);
    expect(forcing(await check((started as Running).container))).toEqual(['cold user-namespace']);
  });

  test('a pod of crun is no worse than one of runc', async () => {
    const pod = await TestPod.run('pod', { runtimeHandler: 'crun' });
    const report = await check((await pod.start('main', 'harmless')).container);
    expect(report.verdict).toBe('hot');
  });

  test('a kubelet that manages it is a remark', async () => {
    const pod = await TestPod.run('pod', { labels: { 'io.kubernetes.pod.uid': POD_UID } });
    const report = await check((await pod.start('main', 'harmless')).container);
    expect(found(report, 'managed-by-kubelet').severity).toBe('hot');
    expect(report.verdict).toBe('hot');
  });

  test('System V memory of two containers is found, and that of one is not', async () => {
    const pod = await TestPod.run('pair');
    const { container } = await pod.start('first', 'sysv-memory');
    expect(forcing(await check('pair'))).toEqual([]);
    await pod.start('second', 'sysv-memory');
    const report = await check('pair');
    expect(found(report, 'shared-ipc')).toMatchObject({
      severity: 'cold',
      seen: expect.stringMatching(/^segment \d+ \(1\.0 MiB\) in \w+, \w+$/),
    });
    expect(report.containers.map(({ name }) => name).sort()).toEqual(['first', 'second']);
    expect(report.containers.map(({ memory }) => memory?.sharedBytes)).toEqual([1048576n, 1048576n]);
    expect(await check(pod.sandbox.slice(0, 12))).toMatchObject({
      sandboxId: pod.sandbox,
      pod: 'pair',
      verdict: report.verdict,
    });
    expect((await check(container)).containers.map(({ name }) => name)).toEqual(['first']);
  });
});

describe('of files and devices', () => {
  test('a terminal is found', async () => {
    expect(forcing(await check((await one('harmless', { tty: true })).container))).toEqual(['cold terminal']);
  });

  test('a device that is given and open is found', async () => {
    const report = await check((await one('device /dev/fuse', { devices: ['/dev/fuse'] })).container);
    expect(forcing(report).sort()).toEqual(['no device-configured', 'no device-open']);
    expect(found(report, 'device-open').seen).toMatch(/^\/dev\/fuse \(PID \d+, fd 3\): 10:229$/);
    expect(report.predictions.some(({ possible }) => possible)).toBe(false);
  });

  test('what only root may open is found', async (context) => {
    const started = await one('privileged', { privileged: true }).catch((error: unknown) => error);
    if (started instanceof Error)
      return skip(context, `this host does not let a privileged container: ${started.message}`);
    const report = await check((started as Running).container);
    expect(forcing(report)).toEqual(expect.arrayContaining(['warm fanotify', 'cold perf-event', 'cold bpf']));
  });

  test('a lock that a process outside has, too, is found', async () => {
    await shell('mkdir -p /var/tmp/check-outside && touch /var/tmp/check-outside/lock');
    const mounts = [{ hostPath: '/var/tmp/check-outside', containerPath: '/outside' }];
    const { container } = await one('lock', { mounts });
    const alone = await check(container);
    expect(found(alone, 'file-lock')).toMatchObject({ severity: 'hot', seen: '/outside/lock' });
    expect(forcing(alone)).not.toContain('warm shared-lock');
    await outside('flock', '--shared', '/var/tmp/check-outside/lock', 'sleep', '1000');
    await shell('while [ "$(grep -c FLOCK /proc/locks)" -lt 2 ]; do sleep 0.02; done');
    const report = await check(container);
    expect(found(report, 'shared-lock')).toMatchObject({
      severity: 'warm',
      seen: expect.stringMatching(/^\/outside\/lock: also PID \d+$/),
    });
    // The folder is the node's, and a file of it is open.
    expect(found(report, 'host-path')).toMatchObject({
      severity: 'cold',
      seen: expect.stringMatching(/\/var\/tmp\/check-outside at \/outside; open there: \/outside\/lock/),
    });
  });

  test('volumes of kubelet are told apart, and a file that is open in a configMap is found', async () => {
    const volumes = `/var/lib/kubelet/pods/${POD_UID}/volumes`;
    const config = `${volumes}/kubernetes.io~configmap/settings`;
    await shell(`mkdir -p ${config}/..2026_11_24_00_00_00.1 ${volumes}/kubernetes.io~empty-dir/work ${volumes}/kubernetes.io~csi/disk/mount
      echo on >${config}/..2026_11_24_00_00_00.1/mode; ln -s ..2026_11_24_00_00_00.1 ${config}/..data; ln -s ..data/mode ${config}/mode`);
    const mounts = [
      { hostPath: config, containerPath: '/settings' },
      { hostPath: `${volumes}/kubernetes.io~empty-dir/work`, containerPath: '/work' },
      { hostPath: `${volumes}/kubernetes.io~csi/disk/mount`, containerPath: '/disk' },
    ];
    const { container } = await one('open-file /settings/mode', { mounts });
    const report = await check(container);
    expect(found(report, 'config-file-open')).toMatchObject({
      severity: 'cold',
      seen: expect.stringMatching(/^\/settings\/\.\.2026_11_24_00_00_00\.1\/mode \(PID/),
    });
    for (const [id, path] of [
      ['config-volume', '/settings'],
      ['empty-dir', '/work'],
      ['persistent-volume', '/disk'],
    ] as const) {
      expect(found(report, id)).toMatchObject({
        severity: 'hot',
        seen: expect.stringMatching(new RegExp(` at ${path}$`)),
      });
    }
  });
});

describe('of the nodes', () => {
  test('configuration of CRIU that another tool has left is found', async () => {
    const { container } = await one('harmless');
    await shell('mkdir -p /etc/criu && printf "# of another tool\\ntcp-close\\n" >/etc/criu/default.conf');
    expect(found(await check(container), 'criu-configuration')).toMatchObject({
      severity: 'warm',
      seen: 'node a: /etc/criu/default.conf: tcp-close',
    });
  });

  test('a peer that has everything adds nothing, and one without the image is found', async () => {
    const { container } = await one('harmless');
    const report = await check(container, { to: 'b' });
    expect([report.to, forcing(report)]).toEqual(['b', []]);
    await labExec(NAME, 'b', ['ctr', '-n', 'k8s.io', 'images', 'rm', '--sync', lab.images.tools]);
    await labExec(NAME, 'b', [
      'sh',
      '-c',
      'ctr -n k8s.io images ls -q | grep sha256 | xargs -r ctr -n k8s.io images rm --sync',
    ]);
    const without = await check(container, { to: 'b' });
    expect(forcing(without)).toEqual(['cold peer-image-missing']);
    await expect(check(container, { to: 'nobody' })).rejects.toMatchObject({ reason: 'PEER_UNKNOWN' });
  });

  test('labels of a security module are told', async (context) => {
    const { container } = await one('harmless');
    const { pid } = await cri.describe(container);
    const label = await shell(`cat /proc/${pid}/attr/current 2>/dev/null || true`);
    if (label.replaceAll('\0', '').trim() === '')
      return skip(context, 'no security module of this kernel labels processes');
    expect(found(await check(container), 'security-label').severity).toBe('hot');
  });
});

describe('the figures', () => {
  test('tell memory by kind', async () => {
    const MIB = 1024 * 1024;
    const report = await check((await one('memory')).container);
    const [{ memory, processes } = { memory: undefined, processes: 0 }] = report.containers;
    const mebibytes = (bytes?: bigint) => Number(bytes) / MIB;
    expect(processes).toBe(1);
    expect(mebibytes(memory?.sharedBytes)).toBe(16);
    expect(mebibytes(memory?.lockedBytes)).toBe(2);
    expect(mebibytes(memory?.lazyBytes)).toBeGreaterThan(8);
    expect(mebibytes(memory?.lazyBytes)).toBeLessThan(10);
    expect(memory?.hugeBytes).toBe(0n);
  });

  test('tell how fast memory is written', async () => {
    const { container } = await one('dirty 48 10');
    const report = await check(container, { windowSeconds: 1.5 });
    const { dirty } = report.containers[0] ?? {};
    expect(dirty?.method).toMatch(/^(sampled|soft-dirty)$/);
    expect(dirty?.pages).toBeGreaterThan(10_000);
    expect((dirty?.bytesPerSecond ?? 0) / 1024 / 1024).toBeGreaterThan(5);
    expect((dirty?.bytesPerSecond ?? 0) / 1024 / 1024).toBeLessThan(20);
    const slow = await check(container, { bandwidthMbit: 100 });
    const downtime = ({ predictions }: CheckReport) =>
      predictions.find(({ mode }) => mode === 'stop-and-copy')?.downtimeMs ?? 0;
    // 48 MiB at 100 and at 1000 Mbit/s differ by 3.6 s.
    expect(downtime(slow) - downtime(report)).toBeGreaterThan(3500);
    expect(downtime(slow) - downtime(report)).toBeLessThan(4000);
  });
});

describe('the command', () => {
  const gantry = (...args: string[]) => labExec(NAME, 'a', ['gantry', 'check', ...args], { reject: false });

  test('tells a verdict as a table and as JSON, its progress beside it', async () => {
    await one('sockets-raw');
    const [table, json] = await Promise.all([
      gantry('one', '--window', '1'),
      gantry('one', '--window', '0', '-o', 'json'),
    ]);
    expect(table).toMatchObject({ exitCode: 0, stderr: expect.stringMatching(/^watch memory \d{4} ms$/m) });
    expect(table.stdout).toMatch(
      /^pod one \(sandbox \w{13}\) on a: warm\n {2}container main \(\w{13}\): warm, 1 process/,
    );
    expect(table.stdout).toMatch(/ {2}warm {2}raw-socket\n {8}seen: 1 raw socket\(s\)\n {8}why: .+\n {8}do: /);
    expect(table.stdout).toMatch(/^stop-and-copy +yes +\d+ ms/m);
    expect(JSON.parse(json.stdout)).toMatchObject({
      verdict: 'warm',
      containers: [{ name: 'main', findings: [{ id: 'raw-socket', severity: 'warm' }] }],
    });
  });

  test('exits with the code of UNSUPPORTED for "no", and as others do for what is not there', async () => {
    const pod = await TestPod.run('pod', { network: NamespaceMode.NODE });
    const { container } = await pod.start('main', 'harmless');
    const [no, missing, unknown] = await Promise.all([
      gantry(container, '--window', '0'),
      gantry('nothing', '-o', 'json'),
      gantry(container, '--to', 'nobody'),
    ]);
    expect(no).toMatchObject({ exitCode: 6, stdout: expect.stringMatching(/^pod pod .*: no\n/) });
    expect([missing.exitCode, JSON.parse(missing.stderr)]).toMatchObject([3, { error: { reason: 'NOT_FOUND' } }]);
    expect(unknown.exitCode).toBe(10);
  });

  test('is cancelled by Ctrl-C', async () => {
    const { container } = await one('harmless');
    const script = `gantry check ${container} --window 60 2>/tmp/said & pid=$!
      while ! grep -q '^read' /tmp/said; do sleep 0.02; done
      kill -INT $pid; wait $pid; code=$?; cat /tmp/said >&2; exit $code`;
    const began = performance.now();
    const { exitCode, stderr } = await labExec(NAME, 'a', ['sh', '-c', script], { reject: false });
    expect([exitCode, stderr]).toEqual([130, expect.stringMatching(/cancelled/)]);
    expect(performance.now() - began).toBeLessThan(20_000);
  });
});
