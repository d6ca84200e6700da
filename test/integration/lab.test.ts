import { access, readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, credentials, type MethodDefinition } from '@grpc/grpc-js';
import { execa } from 'execa';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { bridgeName } from '../../hack/nodes/network.ts';
import {
  ContainerConfig,
  ContainerState,
  CreateContainerRequest,
  ImageServiceService,
  ImageStatusRequest,
  PodSandboxConfig,
  RunPodSandboxRequest,
  RuntimeServiceService,
} from '../../src/gen/cri.ts';
import { LAB, type LabEnvironment, labDown, labEnv, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { RedisConnection } from '../redis.ts';

const NAME = 't-lab';
const OTHER = 't-lab-other';
const HALF = 't-lab-half';
const services = ['containerd'] as const;
const repo = join(import.meta.dirname, '../..');

afterAll(async () => {
  for (const name of [NAME, OTHER, HALF]) await labDown(name);
});

describe('a lab that is up', () => {
  let lab: LabEnvironment;
  let a: NodeEnvironment;
  let b: NodeEnvironment;
  let pod: Pod;

  beforeAll(async () => {
    lab = await labUp({ name: NAME, nodes: 2, services });
    [a, b] = lab.nodes as [NodeEnvironment, NodeEnvironment];
    pod = await startPod(a);
  });
  afterAll(() => labDown(NAME));

  test('env tells how to reach it', async () => {
    const { stdout } = await execa(LAB, ['env', '--name', NAME]);
    expect(JSON.parse(stdout)).toEqual(lab);
    expect(lab.nodes.map(({ name }) => name)).toEqual(['a', 'b']);
    expect(lab.images.redis).toBe('gantry.lab/redis:1');
    expect(a.runtimeSocket).toBe(`/proc/${a.pid}/root/run/containerd/containerd.sock`);
    for (const node of lab.nodes) {
      for (const socket of [node.criSocket, node.runtimeSocket, node.agentSocket])
        expect(socket.length).toBeLessThan(108);
      await access(node.runtimeSocket);
      await access(join(node.logs, 'containerd.log'));
    }
  });

  test('a pod runs on containerd through the CRI, with either runtime', async () => {
    expect((await pod.status()).state).toBe(ContainerState.CONTAINER_RUNNING);
    const other = await startPod(b, 'crun');
    expect((await other.status()).state).toBe(ContainerState.CONTAINER_RUNNING);
    expect(other.address).not.toBe(pod.address);
  });

  test('the host and the other node reach a pod at its own address', async () => {
    expect(await pingRedis(pod.address)).toBe('+PONG');
    const { stdout } = await labExec(NAME, 'b', ['redis-cli', '-h', pod.address, 'ping']);
    expect(stdout).toBe('PONG');
  });

  test('both nodes have the same images', async () => {
    for (const image of Object.values(lab.images)) {
      const request = ImageStatusRequest.fromPartial({ image: { image } });
      const [onA, onB] = await Promise.all(
        [a, b].map((node) => call(node.runtimeSocket, ImageServiceService.imageStatus, request)),
      );
      expect(onA?.image?.id).toMatch(/^sha256:/);
      expect(onB?.image?.id).toBe(onA?.image?.id);
      expect(onB?.image?.repoDigests).toEqual(onA?.image?.repoDigests);
      expect(onA?.image?.pinned).toBe(image === lab.images.pause);
    }
  });

  test('exec passes arguments, input, output and exit code through', async () => {
    const result = await execa(
      LAB,
      ['exec', '--name', NAME, 'b', '--', 'sh', '-c', 'hostname; cat; echo "$1" >&2; exit 7', 'sh', 'two  words'],
      {
        reject: false,
        input: 'typed',
      },
    );
    expect(result).toMatchObject({ exitCode: 7, stdout: 'b\ntyped', stderr: 'two  words' });
  });

  test('a node sees the repository read-only and itself as the root of every cgroup', async () => {
    const { stdout } = await labExec(NAME, 'a', [
      'sh',
      '-c',
      'touch /opt/gantry/x 2>/dev/null; echo $?; cut -d: -f3 /proc/self/cgroup | sort -u',
    ]);
    expect(stdout).toBe('1\n/');
  });

  test('what a command prints comes whole, also to a reader that is slow', async () => {
    const slow = `${LAB} exec --name ${NAME} a -- head -c 1000000 /dev/zero | (sleep 1; wc -c)`;
    expect((await execa('sh', ['-c', slow])).stdout).toBe('1000000');
  });

  test('orphans are reaped', async () => {
    await labExec(NAME, 'a', ['sh', '-c', 'for i in 1 2 3 4 5; do (sleep 0.1 &); done']);
    await until('no zombie is left', async () => {
      const { stdout } = await labExec(NAME, 'a', ['ps', '-eo', 'stat=,args=']);
      return !stdout.includes('sleep 0.1') && !/^Z/m.test(stdout);
    });
  });

  test('containerd that is killed comes back, and containers do not notice', async () => {
    const before = await pod.status();
    const { stdout } = await execa(LAB, ['kill', '--name', NAME, 'a', 'containerd']);
    expect(stdout).toMatch(/^containerd on a: killed PID \d+, started again as PID \d+$/);
    await until('containerd answers', async () => (await pod.status().catch(() => undefined)) !== undefined);
    const after = await pod.status();
    expect(after).toMatchObject({ state: ContainerState.CONTAINER_RUNNING, startedAt: before.startedAt });
    expect(await pingRedis(pod.address)).toBe('+PONG');
  });

  test('a second `up` of the same name is refused', async () => {
    const result = await execa(LAB, ['up', '--name', NAME], { reject: false });
    expect(result.exitCode).toBe(8);
    expect(result.stderr).toContain('already up');
    expect(await labEnv(NAME)).toEqual(lab);
  });

  test('another lab beside it shares nothing, and its end does not touch this one', async () => {
    const other = await labUp({ name: OTHER, nodes: 1, services });
    expect(other.subnet).not.toBe(lab.subnet);
    const otherPod = await startPod(other.nodes[0] as NodeEnvironment);
    expect(await pingRedis(otherPod.address)).toBe('+PONG');
    await labDown(OTHER);
    expect(await tracesOf(OTHER)).toEqual([]);
    expect(await pingRedis(pod.address)).toBe('+PONG');
  });

  test('down leaves nothing, not even of frozen containers', async () => {
    const namespaces = await Promise.all(
      ['net', 'mnt', 'pid', 'cgroup'].map((kind) => readlink(`/proc/${a.pid}/ns/${kind}`)),
    );
    const freezer = await freezerOf(pod.id);
    await writeFile(join(freezer, 'freezer.state'), 'FROZEN').catch(() =>
      writeFile(join(freezer, 'cgroup.freeze'), '1'),
    );
    await labDown(NAME);
    expect(await tracesOf(NAME)).toEqual([]);
    // The kernel keeps a PID namespace for the zombies that the host's PID 1 has not taken note of.
    await until('the namespaces are gone', async () => (await namespacesInUse()).isDisjointFrom(new Set(namespaces)));
  });
});

describe('a lab that is cut off while it starts', () => {
  const run = join(repo, '.lab/run', HALF);

  beforeEach(() => labDown(HALF));

  const moments: Record<string, () => Promise<unknown>> = {
    'its record is written': () => access(`/run/gantry-lab/${HALF}.json`),
    'the bridge is made': () => access(`/sys/class/net/${bridgeName(HALF)}`),
    'a cgroup is made': async () => {
      if (!(await tracesOf(HALF)).some((trace) => trace.startsWith('cgroup'))) throw new Error('not yet');
    },
    'PID 1 of a node runs': () => access(join(run, 'a/pid')),
    'a node is connected': () => access(`/sys/class/net/${bridgeName(HALF)}-b`),
    'containerd starts': () => access(join(run, 'a/log/containerd.log')),
    'images are imported': () => access(join(run, 'b/containerd/io.containerd.content.v1.content/blobs')),
  };

  test.each(Object.keys(moments))('leaves nothing after `down` when killed as %s', async (moment) => {
    const up = execa(LAB, ['up', '--name', HALF, '--services', services.join(',')], { reject: false });
    await until(moment, async () => {
      expect(up.nodeChildProcess.exitCode).toBeNull();
      return (await moments[moment]?.().catch(() => false)) !== false;
    });
    up.kill('SIGKILL');
    await labDown(HALF);
    await up;
    expect(await tracesOf(HALF)).toEqual([]);
  });

  test('undoes itself when interrupted', async () => {
    const up = execa(LAB, ['up', '--name', HALF, '--services', services.join(',')], { reject: false });
    await until('PID 1 of a node runs', () =>
      access(join(run, 'a/pid')).then(
        () => true,
        () => false,
      ),
    );
    up.kill('SIGINT');
    expect((await up).exitCode).toBe(130);
    expect(await tracesOf(HALF)).toEqual([]);
  });

  test('is removed first by the next `up`', async () => {
    const up = execa(LAB, ['up', '--name', HALF, '--services', services.join(',')], { reject: false });
    await until('PID 1 of a node runs', () =>
      access(join(run, 'a/pid')).then(
        () => true,
        () => false,
      ),
    );
    up.kill('SIGKILL');
    await up;
    await execa(LAB, ['up', '--name', HALF, '--services', services.join(',')]);
    expect((await labExec(HALF, 'b', ['hostname'])).stdout).toBe('b');
    await labDown(HALF);
    expect(await tracesOf(HALF)).toEqual([]);
  });
});

interface Pod {
  readonly id: string;
  readonly address: string;
  status(): Promise<{ state: number; startedAt: bigint }>;
}

/** A pod with a busybox and a Redis container; `id` is busybox', `status` Redis'. */
async function startPod(node: NodeEnvironment, runtimeHandler = 'runc'): Promise<Pod> {
  const socket = node.runtimeSocket;
  const uid = `${Date.now()}`;
  const sandboxConfig = PodSandboxConfig.fromPartial({
    metadata: { name: `pod-${uid}`, uid, namespace: 'default' },
    linux: {},
  });
  const { podSandboxId } = await call(
    socket,
    RuntimeServiceService.runPodSandbox,
    RunPodSandboxRequest.fromPartial({ config: sandboxConfig, runtimeHandler }),
  );
  const start = async (name: string, command: string[]) => {
    const config = ContainerConfig.fromPartial({
      metadata: { name },
      image: { image: `gantry.lab/${name}:1` },
      command,
      linux: {},
    });
    const request = CreateContainerRequest.fromPartial({ podSandboxId, config, sandboxConfig });
    const { containerId } = await call(socket, RuntimeServiceService.createContainer, request);
    await call(socket, RuntimeServiceService.startContainer, { containerId });
    return containerId;
  };
  const id = await start('busybox', ['sh', '-c', 'while :; do sleep 1; done']);
  const redis = await start('redis', []);
  const { status } = await call(socket, RuntimeServiceService.podSandboxStatus, { podSandboxId, verbose: false });
  return {
    id,
    address: status?.network?.ip ?? '',
    async status() {
      const answer = await call(socket, RuntimeServiceService.containerStatus, { containerId: redis, verbose: false });
      return { state: answer.status?.state ?? -1, startedAt: answer.status?.startedAt ?? 0n };
    },
  };
}

function call<Request, Response>(
  socket: string,
  method: MethodDefinition<Request, Response>,
  request: Request,
): Promise<Response> {
  const client = new Client(`unix:${socket}`, credentials.createInsecure());
  return new Promise<Response>((resolve, reject) => {
    const options = { deadline: Date.now() + 20_000 };
    client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      options,
      (error, response) => {
        if (error) reject(error);
        else resolve(response as Response);
      },
    );
  }).finally(() => client.close());
}

async function pingRedis(address: string): Promise<string> {
  // It may still be starting: RedisConnection tries again.
  using redis = await RedisConnection.open(address);
  return `+${await redis.send('PING')}`;
}

/** Whatever there is of a lab on the machine: in the process table, cgroups, interfaces, mounts and files. */
async function tracesOf(lab: string): Promise<string[]> {
  const traces: string[] = [];
  for (const pid of await pids()) {
    // Zombies are what is left until the host's PID 1 takes note.
    if (/^State:\s+[ZX]/m.test(await readOrNothing(`/proc/${pid}/status`))) continue;
    const groups = await readOrNothing(`/proc/${pid}/cgroup`);
    const environment = await readOrNothing(`/proc/${pid}/environ`);
    if (groups.includes(`/gantry-lab/${lab}/`) || environment.includes(`/.lab/run/${lab}/`))
      traces.push(`process ${pid}`);
  }
  for (const name of ['', ...(await readdir('/sys/fs/cgroup'))]) {
    const folder = join('/sys/fs/cgroup', name, 'gantry-lab', lab);
    if (
      await access(folder).then(
        () => true,
        () => false,
      )
    )
      traces.push(`cgroup ${folder}`);
  }
  for (const name of await readdir('/sys/class/net'))
    if (name.startsWith(bridgeName(lab))) traces.push(`interface ${name}`);
  if ((await readFile('/proc/self/mountinfo', 'utf8')).includes(`/.lab/run/${lab}/`)) traces.push('mount');
  for (const file of [join(repo, '.lab/run', lab), `/run/gantry-lab/${lab}.json`]) {
    if (
      await access(file).then(
        () => true,
        () => false,
      )
    )
      traces.push(`file ${file}`);
  }
  return traces;
}

async function namespacesInUse(): Promise<Set<string>> {
  const found = new Set<string>();
  for (const pid of await pids()) {
    for (const kind of ['net', 'mnt', 'pid', 'cgroup'])
      found.add(await readlink(`/proc/${pid}/ns/${kind}`).catch(() => ''));
  }
  return found;
}

/** The folder, as the host sees it, of the freezer that a container is in. */
async function freezerOf(container: string): Promise<string> {
  const { stdout } = await execa('find', [
    '/sys/fs/cgroup',
    '-type',
    'd',
    '-name',
    container,
    '-path',
    `*gantry-lab/${NAME}/*`,
  ]);
  const folders = stdout.split('\n');
  return folders.find((folder) => folder.startsWith('/sys/fs/cgroup/freezer')) ?? folders[0] ?? '';
}

async function pids(): Promise<string[]> {
  return (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
}

function readOrNothing(file: string): Promise<string> {
  return readFile(file, 'utf8').catch(() => '');
}

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const limit = performance.now() + 20_000;
  while (!(await isSo())) {
    if (performance.now() > limit) throw new Error(`waited 20 s until ${what}`);
    await sleep(5);
  }
}
