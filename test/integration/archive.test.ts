import { setTimeout as sleep } from 'node:timers/promises';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { GantryError } from '../../src/errors.ts';
import { CheckpointContainerRequest, RuntimeServiceService } from '../../src/gen/cri.ts';
import { AgentService, RestoreRequest, type Result } from '../../src/gen/gantry/v1/agent.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { connectSocket, unary } from '../../src/runtime/grpc.ts';
import { leftoversOn } from '../e2e/leftovers.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { addContainer, type Pod, runPod } from '../pods.ts';
import { RedisConnection } from '../redis.ts';
import { nodeNamed } from '../scenario.ts';
import { operateAgent } from '../surgery.ts';

const NAME = 't-archive';
const FOLDER = '/var/tmp/archives';

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

beforeEach(() => shell(`mkdir -p ${FOLDER}`));
afterEach(async () => {
  for (const { id } of await cri.listSandboxes()) await cri.removeSandbox(id);
  await shell(`rm -r ${FOLDER}`);
  expect(await leftoversOn(lab, node)).toEqual([]);
});

const shell = async (script: string) => (await labExec(NAME, 'a', ['sh', '-c', script])).stdout;
const gantry = async (...args: string[]) =>
  JSON.parse((await shell(`gantry ${args.join(' ')} -o json`)) || '{}') as Result;
const inside = async (container: string, script: string) => {
  const pid = (await cri.describe(container)).pid;
  return (await labExec(NAME, 'a', ['nsenter', '-t', String(pid), '-m', '-n', '-p', '-r', '-w', 'sh', '-c', script]))
    .stdout;
};
const run = (name: string, image = lab.images.busybox, command = ['sleep', 'infinity']) =>
  runPod(node.runtimeSocket, node.pid, { name, image, command });

/** Everything that tells one file from another, of everything below some folders. */
const LISTING = `for f in $(find /made /srv -xdev | sort); do
  stat -c '%n %F %a %u:%g %h %Y' "$f" | sed '/directory/s/ [0-9]* [0-9]*$//'; [ ! -f "$f" ] || md5sum <"$f"; [ ! -h "$f" ] || readlink "$f"; done`;

describe('what a container has written comes back as it was:', () => {
  const make = `set -e; mkdir /made /made/sticky; chmod 1777 /made/sticky; echo one >/made/file; chown 12:34 /made/file
    ln /made/file /made/hard; ln -s file /made/soft; mkfifo /made/fifo; chmod 600 /made/fifo; touch -d '2001-02-03 04:05:06' /made/file
    dd if=/dev/zero of=/made/sparse bs=1 count=1 seek=20000000 2>/dev/null; mkdir -p "/made/a long name that goes on and on/$(printf %0120d 1)"
    echo x >"/made/a long name that goes on and on/$(printf %0120d 1)/ünïcode"; rm -r /srv; mkdir /srv; echo new >/srv/new; echo shared >/dev/shm/shared`;

  test.each(
    process.env.GANTRY_ALL_MOMENTS === '1' ? ['', '--compress gzip', '--compress zstd'] : ['', '--compress zstd'],
  )('by an archive %s', async (how) => {
    const { sandbox, container } = await run('written');
    await inside(container, `${make}; cd /made; exec 3>/made/held; rm -f /bin/usleep`);
    const pid = (await cri.describe(container)).pid;
    await shell(`setcap cap_net_raw+ep /proc/${pid}/root/made/hard`);
    const before = await inside(container, LISTING);
    const { directory } = await gantry('checkpoint', container, '--archive', `${FOLDER}/a.tar`, how);
    expect(directory).toBe(`${FOLDER}/a.tar`);
    await cri.removeSandbox(sandbox);
    expect(await shell(`stat -c %a ${FOLDER}/a.tar; ls ${FOLDER}`)).toBe('600\na.tar');
    // The layer is OCI's, which tells of deletions by names. The node's tar has no zstd.
    if (how !== '--compress zstd') {
      const names = await shell(`tar -xOf ${FOLDER}/a.tar rootfs-diff.tar | tar -tf - | grep '[.]wh'`);
      expect(names.split('\n').sort()).toEqual(['./bin/.wh.usleep', './srv/.wh..wh..opq']);
    }
    const refused = await labExec(NAME, 'a', ['gantry', 'restore', `${FOLDER}/a.tar`, '--new-sandbox', 'again'], {
      reject: false,
    });
    expect([refused.exitCode, refused.stderr]).toEqual([
      35,
      expect.stringMatching(/made\/(hard|file).* has capabilities/),
    ]);
    const { containerId } = await gantry('restore', `${FOLDER}/a.tar`, '--new-sandbox again --allow-setuid');
    expect(await inside(containerId, LISTING)).toBe(before);
    expect(
      await inside(containerId, 'ls /bin/usleep 2>&1 | grep -c No; cat /dev/shm/shared; du -k /made/sparse | cut -f1'),
    ).toMatch(/^1\nshared\n\d{1,3}$/);
    const { pid: restored } = await cri.describe(containerId);
    expect(await shell(`getcap /proc/${restored}/root/made/file`)).toContain('cap_net_raw=ep');
  });
});

describe('a checkpoint', () => {
  const redis = async (name: string): Promise<Pod> => {
    const pod = await run(name, lab.images.redis, ['redis-server', '--save', '', '--protected-mode', 'no']);
    await using connection = await client(pod);
    await connection.send('SET', 'who', 'the first');
    return pod;
  };
  const client = async ({ address }: { address: string }) => {
    const connection = await RedisConnection.open(address);
    return Object.assign(connection, { [Symbol.asyncDispose]: async () => connection.close() });
  };
  const addressOf = async (sandbox: string) => {
    const { pid } = await cri.describeSandbox(sandbox);
    return (await shell(`nsenter -t ${pid} -n ip -4 -o address show eth0`)).split(/\s+/)[3]?.split('/')[0] ?? '';
  };

  test('is restored again and again, five generations, each with what the one before has learned', async () => {
    let { sandbox, container } = await redis('generation');
    for (let generation = 1; generation <= 5; generation++) {
      const archive = `${FOLDER}/${generation}.tar`;
      await gantry('checkpoint', container, '--archive', archive);
      await cri.removeSandbox(sandbox);
      const restored = await gantry('restore', archive, '--new-sandbox', `generation-${generation}`);
      sandbox = restored.sandboxId;
      container = restored.containerId;
      await using connection = await client({ address: await addressOf(sandbox) });
      expect(String(await connection.send('GET', 'who'))).toBe(generation === 1 ? 'the first' : `of ${generation - 1}`);
      await connection.send('SET', 'who', `of ${generation}`);
    }
    // What it prints goes into its log, also after all these moves.
    await inside(container, 'redis-cli client no-evict on; redis-cli config set loglevel debug');
    const { status } = await cri.containerStatus(container);
    expect(await shell(`cat ${status?.logPath}`)).toMatch(/Client closed connection/);
  });

  test('is the origin of many, at once, on other addresses; the first one goes on with its connections', async () => {
    const first = await redis('first');
    await using open = await client(first);
    const { directory } = await gantry(
      'checkpoint',
      first.container,
      '--archive',
      `${FOLDER}/a.tar --leave-running --tcp established`,
    );
    await open.send('SET', 'who', 'the first, later');
    const clones = await Promise.all(
      ['one', 'two', 'three'].map((name) => gantry('restore', directory, '--new-sandbox', name)),
    );
    for (const { sandboxId, warnings } of clones) {
      const address = await addressOf(sandboxId);
      expect(warnings).toEqual([
        `the sandbox has ${address}, and the checkpoint ${first.address}: connections are closed`,
      ]);
      await using connection = await client({ address });
      expect(String(await connection.send('GET', 'who'))).toBe('the first');
    }
    expect(String(await open.send('GET', 'who'))).toBe('the first, later');
  });

  test('goes back into its own container', async () => {
    const first = await redis('back');
    await gantry('checkpoint', first.container, '--archive', `${FOLDER}/a.tar --leave-running`);
    await inside(first.container, 'redis-cli set who "the first, later"');
    await gantry('restore', `${FOLDER}/a.tar`, '--in-place', first.container);
    await using connection = await client(first);
    expect(String(await connection.send('GET', 'who'))).toBe('the first');
  });

  test('is encrypted for a key, and of no use without it', async () => {
    const identity = await generateIdentity();
    const { container } = await redis('secret');
    const recipient = await identityToRecipient(identity);
    await gantry('checkpoint', container, '--archive', `${FOLDER}/a.age --compress zstd --recipient ${recipient}`);
    await shell(`echo '# a key\n${identity}' >${FOLDER}/key`);
    expect(await shell(`grep -c "the first" ${FOLDER}/a.age || true`)).toBe('0');
    const refused = await labExec(NAME, 'a', ['gantry', 'restore', `${FOLDER}/a.age`, '--new-sandbox', 'x'], {
      reject: false,
    });
    expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringMatching(/is encrypted.*--identity/s)]);
    const { sandboxId } = await gantry('restore', `${FOLDER}/a.age`, `--new-sandbox open --identity ${FOLDER}/key`);
    await using connection = await client({ address: await addressOf(sandboxId) });
    expect(String(await connection.send('GET', 'who'))).toBe('the first');
  });

  test("of containerd's own making is restored, too", async () => {
    const { container, sandbox } = await redis('containerd');
    await inside(container, 'echo written >/data/written; rm /etc/group');
    const connection = connectSocket(node.runtimeSocket);
    const request = CheckpointContainerRequest.fromPartial({ containerId: container, location: `${FOLDER}/c.tar` });
    await unary(connection, RuntimeServiceService.checkpointContainer, request, { timeoutMs: 60_000 });
    connection.close();
    await cri.removeContainer(container);
    const { containerId, warnings } = await gantry('restore', `${FOLDER}/c.tar`, '--sandbox', sandbox);
    expect(warnings).toEqual(['it was not made by gantry: nothing says whether it is as it was made']);
    expect(await inside(containerId, 'cat /data/written; ls /etc/group 2>&1 | grep -c No; redis-cli get who')).toBe(
      'written\n1\nthe first',
    );
  });

  test('that was changed by one bit is refused before anything of it runs', async () => {
    const { container } = await redis('flipped');
    await gantry('checkpoint', container, '--archive', `${FOLDER}/a.tar`);
    await shell(`cd ${FOLDER}; printf x | dd of=a.tar bs=1 seek=400000 conv=notrunc 2>/dev/null`);
    const refused = await labExec(NAME, 'a', ['gantry', 'restore', `${FOLDER}/a.tar`, '--new-sandbox', 'x'], {
      reject: false,
    });
    expect([refused.exitCode, refused.stderr]).toEqual([
      35,
      expect.stringMatching(/pages-1\.img is not what its manifest says/),
    ]);
    expect((await cri.listSandboxes()).map(({ metadata }) => metadata?.name)).toEqual(['flipped']);
  });

  test('is restored out of the archive itself: its memory is in no other file', async () => {
    const { container } = await redis('stays');
    await gantry('checkpoint', container, '--archive', `${FOLDER}/a.tar --leave-running`);
    const request = RestoreRequest.fromPartial({ source: `${FOLDER}/a.tar`, newSandbox: 'clone' });
    let looks: Promise<string> | undefined;
    const look = 'cd /run/gantry/images/*/checkpoint; stat -c "%n %s" pages-1.img; readlink -f parent/pages-1.img';
    const onPhase = (name: string) => {
      if (name === 'restore files') looks = shell(look);
    };
    await operateAgent(node.agentSocket, AgentService.restore, request, { onPhase });
    expect(await looks).toBe(`pages-1.img 0\n${FOLDER}/a.tar`);
  });

  test('has the content of an emptyDir, and of no other volume', async () => {
    const kubelets = '/var/lib/kubelet/pods/1234/volumes/kubernetes.io~empty-dir/cache';
    await shell(`mkdir -p ${kubelets} /var/tmp/config; echo given >/var/tmp/config/file; touch ${kubelets}/.wh.kept`);
    const mounts = [
      { hostPath: kubelets, containerPath: '/cache' },
      { hostPath: '/var/tmp/config', containerPath: '/config' },
    ];
    const pod = await runPod(node.runtimeSocket, node.pid, {
      name: 'volumes',
      image: lab.images.busybox,
      command: ['sleep', 'infinity'],
      mounts,
    });
    await inside(pod.container, 'echo then >/cache/file');
    await gantry('checkpoint', pod.container, '--archive', `${FOLDER}/a.tar --leave-running`);
    await inside(pod.container, 'echo now >/cache/file');
    const refused = await labExec(NAME, 'a', ['gantry', 'restore', `${FOLDER}/a.tar`, '--new-sandbox', 'own'], {
      reject: false,
    });
    expect([refused.exitCode, refused.stderr]).toEqual([36, expect.stringMatching(/the node's \/var\/tmp\/config/)]);
    const { containerId, sandboxId } = await gantry(
      'restore',
      `${FOLDER}/a.tar`,
      '--new-sandbox',
      'own --trust-config',
    );
    expect(await inside(containerId, 'cat /cache/file /config/file; ls -A /cache')).toBe('then\ngiven\n.wh.kept\nfile');
    expect(await inside(pod.container, 'cat /cache/file')).toBe('now');
    await cri.removeSandbox(sandboxId);
    const left = () => shell('ls /var/lib/gantry/restored-volumes');
    for (let tries = 0; tries < 150 && (await left()) !== ''; tries++) await sleep(100);
    expect(await left()).toBe('');
    await shell(`rm -r /var/lib/kubelet /var/tmp/config`);
  });
});

describe('a pod of two containers', () => {
  // A client of the first that stays connected, and tells who it is to the other end.
  const CLIENT = 'mkfifo /in; exec 3<>/in; echo two >/dev/shm/of-two; redis-cli <&3 >>/out';

  async function runTwo(): Promise<Pod> {
    const pod = await run('two', lab.images.redis, ['redis-server', '--save', '']);
    await addContainer(node.runtimeSocket, pod.sandbox, 'client', lab.images.redis, ['sh', '-c', CLIENT]);
    return pod;
  }
  const clientIn = async (sandbox: string) =>
    (await cri.listContainers()).find(
      ({ podSandboxId, metadata }) => podSandboxId === sandbox && metadata?.name === 'client',
    )?.id ?? '';
  /** The number that the server has given to the client's connection. */
  async function ask(container: string): Promise<string> {
    await inside(container, 'echo client id >/in');
    for (let tries = 0; tries < 50; tries++) {
      const said = await inside(container, 'cat /out; : >/out');
      if (said !== '') return said.trim();
      await sleep(100);
    }
    return 'nothing';
  }

  test('comes back as a whole, and their connection lives', async () => {
    const pod = await runTwo();
    const before = await ask(await clientIn(pod.sandbox));
    expect(before).toMatch(/^\d+$/);
    await gantry('checkpoint', pod.sandbox, '--archive', `${FOLDER}/p.tar --tcp established`);
    expect((await shell(`tar -tf ${FOLDER}/p.tar`)).split('\n')).toEqual(
      expect.arrayContaining(['pod.options', 'two.tar', 'client.tar', 'gantry.json']),
    );
    // Another pod has another address, and connections of its own.
    const { sandboxId, warnings } = await gantry('restore', `${FOLDER}/p.tar`, '--new-sandbox', 'two-again');
    expect(warnings).toEqual([expect.stringMatching(/connections are closed/)]);
    expect(await inside(await clientIn(sandboxId), 'cat /dev/shm/of-two')).toBe('two');
    for (const { id, podSandboxId } of await cri.listContainers())
      if (podSandboxId === pod.sandbox) await cri.removeContainer(id);
    await gantry('restore', `${FOLDER}/p.tar`, '--sandbox', pod.sandbox);
    expect(await ask(await clientIn(pod.sandbox))).toBe(before);
  });

  test('goes on while it is saved, and keeps its connection', async () => {
    const pod = await runTwo();
    const container = await clientIn(pod.sandbox);
    const before = await ask(container);
    await gantry(
      'checkpoint',
      pod.sandbox,
      '--archive',
      `${FOLDER}/p.tar.zst --compress zstd --leave-running --tcp established`,
    );
    expect(await ask(container)).toBe(before);
  });

  test.each(process.env.GANTRY_ALL_MOMENTS === '1' ? ['create', 'restore files', 'restore'] : ['restore'])(
    'of which the agent dies in "%s" leaves nothing, and can be restored',
    async (phase) => {
      const pod = await runTwo();
      await gantry('checkpoint', pod.sandbox, '--archive', `${FOLDER}/p.tar --tcp established`);
      for (const { id } of await cri.listContainers()) await cri.removeContainer(id);
      const request = RestoreRequest.fromPartial({ source: `${FOLDER}/p.tar`, sandbox: pod.sandbox });
      let seen = 0;
      const onPhase = (name: string) => {
        // Of the second container, where each has one of its own.
        seen += name === phase ? 1 : 0;
        const isThere = name === phase && seen === (phase === 'restore' ? 1 : 2);
        if (isThere)
          setTimeout(
            () => void labExec(NAME, 'a', ['sh', '-c', 'kill -9 $(cat /run/lab/agent.pid)']),
            phase === 'restore' ? 150 : 0,
          );
      };
      const restore = operateAgent(node.agentSocket, AgentService.restore, request, { onPhase });
      await expect(restore).rejects.toMatchObject({ reason: 'AGENT_UNAVAILABLE' });
      const agentIsBack = () =>
        operateAgent(node.agentSocket, AgentService.restore, { ...request, source: '/nowhere' });
      for (let tries = 0; tries < 300; tries++) {
        if ((await agentIsBack().catch((error: GantryError) => error.reason)) === 'NOT_FOUND') break;
        await sleep(100);
      }
      expect((await cri.listContainers()).map(({ id }) => id)).toEqual([]);
      expect(await leftoversOn(lab, node)).toEqual([]);
      await gantry('restore', `${FOLDER}/p.tar`, '--sandbox', pod.sandbox);
      expect(await ask(await clientIn(pod.sandbox))).toMatch(/^\d+$/);
    },
  );
});
