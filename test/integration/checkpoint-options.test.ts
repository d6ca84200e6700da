import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ContainerState } from '../../src/gen/cri.ts';
import type { Result } from '../../src/gen/gantry/v1/agent.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { leftoversOn } from '../e2e/leftovers.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { addContainer, type Pod, runPod } from '../pods.ts';
import { RedisConnection } from '../redis.ts';
import { nodeNamed } from '../scenario.ts';

/*
 * What `gantry checkpoint` can be told beyond its defaults (test/integration/archive.test.ts has those).
 */

const NAME = 't-options';
const FOLDER = '/var/tmp/options';
const PROGRAMS = join(import.meta.dirname, '../programs');

/** A dump ends the one sleep that is going on. */
const STAYS = ['sh', '-c', 'while :; do sleep 1; done'];

let lab: LabEnvironment;
let node: NodeEnvironment;
let cri: Cri;

beforeAll(async () => {
  lab = await labUp({ name: NAME, nodes: 1 });
  node = nodeNamed(lab, 'a');
  cri = new Cri(node.runtimeSocket);
});
afterAll(async () => {
  cri?.close();
  await labDown(NAME);
});

beforeEach(() => shell(`mkdir -p -m 1777 ${FOLDER}`));
afterEach(async () => {
  for (const { id } of await cri.listSandboxes()) await cri.removeSandbox(id);
  await shell(`rm -r ${FOLDER}`);
  expect(await leftoversOn(lab, node)).toEqual([]);
});

const shell = async (script: string) => (await labExec(NAME, 'a', ['sh', '-c', script])).stdout;
/** As on the command line of the node. */
const attempt = async (...args: string[]) => {
  const command = ['sh', '-c', `gantry ${args.join(' ')} -o json`];
  const { exitCode, stdout, stderr } = await labExec(NAME, 'a', command, { reject: false });
  return { exitCode, result: JSON.parse(stdout || '{}') as Result, stderr };
};
const gantry = async (...args: string[]) => {
  const { exitCode, result, stderr } = await attempt(...args);
  expect(exitCode, stderr).toBe(0);
  return result;
};
const inside = async (container: string, script: string) => {
  const pid = (await cri.describe(container)).pid;
  return (await labExec(NAME, 'a', ['nsenter', '-t', String(pid), '-m', '-n', '-p', '-r', '-w', 'sh', '-c', script]))
    .stdout;
};
const redis = (name: string): Promise<Pod> =>
  runPod(node.runtimeSocket, node.pid, {
    name,
    image: lab.images.redis,
    command: ['redis-server', '--save', '', '--protected-mode', 'no'],
  });
const restartAgent = async () => {
  await shell('kill -9 $(cat /run/lab/agent.pid)');
  for (let tries = 0; tries < 300; tries++) {
    if ((await attempt('resume', 'nobody')).exitCode === 3) return;
    await sleep(100);
  }
  throw new Error('the agent does not come back');
};

describe('what is paused', () => {
  const states = async (...containers: string[]) =>
    Promise.all(containers.map(async (id) => (await cri.describe(id)).state));
  const frozen = async (container: string) => {
    const { pid } = await cri.describe(container);
    const script = `g=$(sed -n 's/^[0-9]*:freezer://p; s/^0:://p' /proc/${pid}/cgroup | head -n 1)
      cat /sys/fs/cgroup/freezer$g/freezer.state 2>/dev/null || grep frozen /sys/fs/cgroup$g/cgroup.events`;
    return ['FROZEN', 'frozen 1'].includes(await shell(script));
  };

  test('stays so, also when the agent dies, until somebody lets it go on; its connections live', async () => {
    const { container, address } = await redis('paused');
    using connection = Object.assign(await RedisConnection.open(address), {
      [Symbol.dispose]: () => connection.close(),
    });
    await connection.send('SET', 'who', 'it');
    await gantry('checkpoint', container, `--archive ${FOLDER}/a.tar --tcp established --pause`);
    expect(await shell(`ls ${FOLDER}; stat -c %a ${FOLDER}`)).toBe('a.tar\n1777');
    expect([await frozen(container), await states(container)]).toEqual([true, [ContainerState.CONTAINER_RUNNING]]);
    let answer = '';
    const asked = connection.send('GET', 'who').then((reply) => {
      answer = String(reply);
    });
    // It is as it was, whatever comes: another checkpoint would have to let it go on if it failed.
    const again = await attempt('checkpoint', container, `--archive ${FOLDER}/b.tar --tcp established --leave-running`);
    expect([again.exitCode, again.stderr]).toEqual([4, expect.stringMatching(/is paused.*gantry resume/s)]);
    await restartAgent();
    expect([await frozen(container), answer]).toEqual([true, '']);
    expect(await leftoversOn(lab, node)).toEqual([]);
    expect((await gantry('resume', 'paused')).warnings).toEqual([]);
    await asked;
    expect([await frozen(container), answer]).toEqual([false, 'it']);
    expect((await gantry('resume', container)).warnings).toEqual(['container paused was not paused']);
    // What was saved is the same, and independent of it.
    const { containerId } = await gantry('restore', `${FOLDER}/a.tar`, '--new-sandbox copy');
    expect(await inside(containerId, 'redis-cli get who')).toBe('it');
  });

  test('may be a pod, which goes on as one', async () => {
    const pod = await redis('both');
    const other = await addContainer(node.runtimeSocket, pod.sandbox, 'other', lab.images.busybox, STAYS);
    await gantry('checkpoint', pod.sandbox, `--archive ${FOLDER}/p.tar --pause`);
    expect([await frozen(pod.container), await frozen(other)]).toEqual([true, true]);
    await gantry('resume', other);
    expect([await frozen(pod.container), await frozen(other)]).toEqual([true, false]);
    expect((await gantry('resume', pod.sandbox)).warnings).toEqual(['container other was not paused']);
    expect(await inside(pod.container, 'redis-cli ping')).toBe('PONG');
  });

  test('is stopped and removed by the CRI as any other', async () => {
    const { container, sandbox } = await redis('stopped');
    await gantry('checkpoint', container, `--output ${FOLDER}/c --pause`);
    await cri.stopContainer(container, 1);
    expect(await states(container)).toEqual([ContainerState.CONTAINER_EXITED]);
    await cri.removeContainer(container);
    const second = await addContainer(node.runtimeSocket, sandbox, 'second', lab.images.busybox, STAYS);
    await gantry('checkpoint', second, `--output ${FOLDER}/d --pause`);
    await cri.removeSandbox(sandbox);
    expect((await attempt('resume', 'second')).exitCode).toBe(3);
  });

  test('is neither ended nor let go on', async () => {
    for (const two of ['--pause --stop', '--pause --leave-running', '--leave-running --stop']) {
      const { exitCode, stderr } = await attempt('checkpoint', 'nobody', `--archive ${FOLDER}/a.tar ${two}`);
      expect([exitCode, stderr]).toEqual([2, expect.stringMatching(/one of --leave-running, --pause and --stop/)]);
    }
  });
});

test('a pod is encrypted for a key, and comes back with it as a whole', async () => {
  const identity = await generateIdentity();
  await shell(`echo '${identity}' >${FOLDER}/key`);
  const pod = await redis('secret');
  const other = await addContainer(node.runtimeSocket, pod.sandbox, 'other', lab.images.busybox, STAYS);
  await inside(pod.container, 'redis-cli set who "the secret"; echo written >/data/written; echo shm >/dev/shm/file');
  await inside(other, 'dd if=/dev/urandom of=/file bs=1M count=3 2>/dev/null');
  const sum = await inside(other, 'md5sum </file');
  const recipient = await identityToRecipient(identity);
  await gantry('checkpoint', pod.sandbox, `--archive ${FOLDER}/p.age --compress gzip --recipient ${recipient}`);
  expect(await shell(`grep -c "the secret" ${FOLDER}/p.age || true`)).toBe('0');
  const refused = await attempt('restore', `${FOLDER}/p.age`, '--new-sandbox x');
  expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringMatching(/is encrypted.*--identity/s)]);
  expect(await shell(`gantry verify ${FOLDER}/p.age --identity ${FOLDER}/key`)).toMatch(/sound/);
  const { sandboxId } = await gantry('restore', `${FOLDER}/p.age`, `--new-sandbox again --identity ${FOLDER}/key`);
  const back = (await cri.listContainers()).filter(({ podSandboxId }) => podSandboxId === sandboxId);
  const named = (name: string) => back.find(({ metadata }) => metadata?.name === name)?.id ?? '';
  expect(await inside(named('secret'), 'redis-cli get who; cat /data/written /dev/shm/file')).toBe(
    'the secret\nwritten\nshm',
  );
  expect(await inside(named('other'), 'md5sum </file')).toBe(sum);
});

describe('an OCI image layout', () => {
  test('has the archive as its layer, and a container is restored from it', async () => {
    const { container } = await redis('image');
    await inside(container, 'redis-cli set who "the image"');
    await gantry('checkpoint', container, `--oci ${FOLDER}/image --compress gzip`);
    expect(await shell(`cd ${FOLDER}/image && stat -c '%a %n' . oci-layout index.json`)).toBe(
      '700 .\n600 oci-layout\n600 index.json',
    );
    // Every blob is what its name says.
    const blobs = await shell(
      `cd ${FOLDER}/image/blobs/sha256 && for one in *; do echo "$one  $one"; done | sha256sum -c`,
    );
    expect(blobs.split('\n')).toEqual(Array(3).fill(expect.stringMatching(/: OK$/)));
    // As CRI-O and containerd find it.
    await shell(
      `cd ${FOLDER}/image && tar -cf ../image.tar . && ctr -n k8s.io image import --index-name checkpoint:1 ../image.tar`,
    );
    const target = (
      await shell("ctr -n k8s.io image ls | sed -n 's/^checkpoint:1 .*\\(sha256:[0-9a-f]*\\).*/\\1/p'")
    ).trim();
    expect(target).toMatch(/^sha256:/);
    await shell('ctr -n k8s.io image rm --sync checkpoint:1');
    const { containerId } = await gantry('restore', `${FOLDER}/image`, '--new-sandbox again');
    expect(await inside(containerId, 'redis-cli get who')).toBe('the image');
    const seen = JSON.parse(await shell(`gantry inspect ${FOLDER}/image -o json`)) as { container: { name: string } };
    expect(seen.container.name).toBe('image');
  });

  test('may be of a pod', async () => {
    const pod = await redis('first');
    await addContainer(node.runtimeSocket, pod.sandbox, 'other', lab.images.busybox, STAYS);
    await gantry('checkpoint', pod.sandbox, `--oci ${FOLDER}/image`);
    const { sandboxId } = await gantry('restore', `${FOLDER}/image`, '--new-sandbox again');
    const back = (await cri.listContainers()).filter(({ podSandboxId }) => podSandboxId === sandboxId);
    expect(back.map(({ metadata }) => metadata?.name).sort()).toEqual(['first', 'other']);
  });

  test('is not made over what is there, and is not encrypted', async () => {
    const { container } = await redis('there');
    await shell(`mkdir ${FOLDER}/image && echo mine >${FOLDER}/image/file`);
    const refused = await attempt('checkpoint', container, `--oci ${FOLDER}/image`);
    expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringMatching(/exists already/)]);
    expect(await shell(`cat ${FOLDER}/image/file`)).toBe('mine');
    const sealed = await attempt('checkpoint', container, `--oci ${FOLDER}/other --recipient age1x`);
    expect([sealed.exitCode, sealed.stderr]).toEqual([2, expect.stringMatching(/--recipient is for archives/)]);
  });
});

describe('of a program that', () => {
  /** Runs one of test/programs, dumps it without and with an option, ends it, and starts it again from that. */
  const program = async (files: string | readonly string[], ...args: string[]): Promise<Pod> => {
    const text = async (name: string) => readFile(join(PROGRAMS, `${name}.pl`), 'utf8');
    const parts = await Promise.all([files].flat().map(text));
    // Only the last one stays.
    const body = parts.map((part, index) => (index < parts.length - 1 ? part.replace(/^stay\(\);$/m, '') : part));
    const script = [await text('prelude'), `@ARGV = qw(${args.join(' ')});`, ...body].join('\n');
    const pod = await runPod(node.runtimeSocket, node.pid, {
      name: 'program',
      image: lab.images.tools,
      command: ['perl', '-e', script],
      mounts: [{ hostPath: FOLDER, containerPath: '/outside' }],
    });
    for (let tries = 0; tries < 100; tries++) {
      if ((await inside(pod.container, 'ls /ready 2>/dev/null || true')) !== '') return pod;
      await sleep(20);
    }
    throw new Error(`${files} is not ready`);
  };
  const save = (container: string, ...options: string[]) =>
    attempt('checkpoint', container, `--archive ${FOLDER}/a.tar`, ...options);
  const restore = async (...options: string[]) =>
    (await gantry('restore', `${FOLDER}/a.tar`, '--new-sandbox again --trust-config', ...options)).containerId;

  /** What it does, the program, what CRIU says without an option, what makes it work, and what is then true inside. */
  const needs: [
    does: string,
    program: string,
    refused: RegExp,
    options: string,
    script: string,
    says: string | RegExp,
  ][] = [
    [
      'has a large file open that is deleted',
      'deleted-file 2',
      /ghost file.*--ghost-limit/s,
      '--ghost-limit 4M',
      'readlink /proc/1/fd/3; wc -c </proc/1/fd/3',
      /\(deleted\)\n2097152$/,
    ],
    [
      'has a file open by a name that it has lost',
      'deleted-name',
      /link remap.*--link-remap/s,
      '--link-remap',
      'readlink /proc/1/fd/3; ls /tmp; test /proc/1/fd/3 -ef /tmp/two && echo the same',
      '/tmp/one (deleted)\ntwo\nthe same',
    ],
    [
      'has connections that nobody has accepted yet',
      'sockets-in-flight',
      /In-flight.*--tcp-skip-in-flight/s,
      '--tcp-skip-in-flight',
      'readlink /proc/1/fd/3',
      /^socket:/,
    ],
  ];

  // The last one is only handed on.
  test.each(process.env.GANTRY_ALL_MOMENTS === '1' ? needs : needs.slice(0, 2))(
    '%s',
    async (_, file, says, options, script, result) => {
      const [name = '', ...args] = file.split(' ');
      const { container } = await program(name, ...args);
      const refused = await save(container, '--tcp established');
      expect([refused.exitCode, refused.stderr]).toEqual([21, expect.stringMatching(says)]);
      const saved = await save(container, '--tcp established', options);
      expect(saved.exitCode, saved.stderr).toBe(0);
      expect(await inside(await restore(), script)).toMatch(result);
    },
  );

  test('watches files, and holds a lock: --force-irmap, and no option', async () => {
    await shell(`touch ${FOLDER}/lock`);
    const { container } = await program(['inotify', 'lock']);
    const saved = await save(container, '--force-irmap');
    expect(saved.exitCode, saved.stderr).toBe(0);
    const held = () => shell(`grep -c "FLOCK.*:$(stat -c %i ${FOLDER}/lock) " /proc/locks || true`);
    expect(await held()).toBe('0');
    expect(await inside(await restore(), 'grep -l inotify /proc/1/fdinfo/*')).toMatch(/fdinfo/);
    expect(await held()).toBe('1');
  });

  test('talks to another container of its pod by a unix socket: --ext-unix-sk', async () => {
    const { container } = await program('unix-datagram');
    const { pid } = await cri.describe(container);
    const listener =
      'socket S, 1, 2, 0; bind S, pack "S a108", 1, $ARGV[0]; open F, ">", $ARGV[1]; syswrite F, $b while sysread S, $b, 99';
    // In the pod's network, where CRIU looks for the other end, and under a path of the container's.
    await shell(`nsenter -t ${pid} -n -m -r -w perl -e '${listener}' /outside/log /outside/said >/dev/null 2>&1 </dev/null &
      echo $! >${FOLDER}/pid; while [ ! -s ${FOLDER}/said ]; do sleep 0.02; done`);
    const refused = await save(container);
    expect([refused.exitCode, refused.stderr]).toEqual([21, expect.stringMatching(/External socket.*--ext-unix-sk/s)]);
    const saved = await save(container, '--ext-unix-sk');
    expect(saved.exitCode, saved.stderr).toBe(0);
    const before = Number(await shell(`wc -c <${FOLDER}/said`));
    await restore();
    await expect.poll(async () => Number(await shell(`wc -c <${FOLDER}/said`))).toBeGreaterThan(before);
    await shell(`kill $(cat ${FOLDER}/pid)`);
  });
});
