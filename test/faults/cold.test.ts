import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { ContainerConfig, ContainerState, PodSandboxConfig } from '../../src/gen/cri.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { runningOn } from '../scenario.ts';

import { expectReason, until, World } from './world.ts';

/*
 * Cold: files and address move, the processes end by their own signal and new ones start. The program writes down when it
 * starts and when it is told to stop, into its layer and into an emptyDir, and a web server shows both at the pod's address.
 * Its runtime handler is one that Gantry knows nothing of.
 */

const NAME = 'diary';
const VOLUME = '/var/lib/kubelet/pods/0c01d/volumes/kubernetes.io~empty-dir/data';
const SCRIPT = `
note() { echo "$1" >> /diary; echo "$1" >> /data/diary; }
note start
trap 'sleep 0.3; note stop; exit 0' TERM
httpd -p 8080 -h /
while :; do sleep 0.05; done`;

interface Moved {
  operation: string;
}

let world: World;
let address: string;
let pod: { sandbox: string; container: string };

beforeAll(async () => {
  world = await World.up('t-cold');
});
afterAll(() => world?.down());
afterEach(async () => {
  await world.removePods();
});

/** On a, with nothing in its diaries yet. */
async function begin(handler = 'plain', script = SCRIPT): Promise<void> {
  const folder = world.path(world.a, VOLUME);
  await mkdir(folder, { recursive: true });
  await world.shell(world.a, `rm -rf ${VOLUME}/*`);
  pod = await world.runContainer(world.a, {
    name: NAME,
    handler,
    container: {
      command: ['sh', '-c', script],
      mounts: [{ hostPath: VOLUME, containerPath: '/data' }],
    },
  });
  using cri = new Cri(world.a.runtimeSocket);
  const { pid } = await cri.describeSandbox(pod.sandbox);
  const { stdout } = await world.shell(world.a, `nsenter --net=/proc/${pid}/ns/net ip -4 -o addr show dev eth0`);
  address = /inet ([\d.]+)/.exec(stdout)?.[1] ?? '';
  await until('it has started', async () => (await diary()).length > 0);
}

/** What its web server says, wherever the address leads; nothing while it does not answer. */
async function diary(file = 'diary'): Promise<string[]> {
  const answer = await fetch(`http://${address}:8080/${file}`, { signal: AbortSignal.timeout(2000) }).catch(
    () => undefined,
  );
  return ((await answer?.text()) ?? '').split('\n').filter((line) => line !== '');
}

/** Both diaries say the same, and so it lives with its files, at its address. */
async function expectDiary(...lines: string[]): Promise<void> {
  await until(`the diary says ${lines}`, async () => (await diary()).join() === lines.join());
  expect(await diary('data/diary')).toEqual(lines);
}

const places = () => runningOn(world, NAME);

const migrate = (...options: string[]) => world.gantry(world.a, 'migrate', NAME, '--to', 'b', ...options);

test('what cannot be checkpointed is refused without --mode, and goes on', async () => {
  await begin();
  expectReason(await migrate(), 'UNSUPPORTED', 'runtime handler "plain"');
  expectReason(await migrate('--mode', 'hot'), 'UNSUPPORTED', 'no hot mode');
  expectReason(await migrate('--mode', 'pre-copy'), 'UNSUPPORTED');
  await expectDiary('start');
  expect(await places()).toEqual(['a']);
});

test.each(['auto', 'cold'])(
  '--mode %s: it ends by its own signal here, and starts there with all that it has written',
  async (mode) => {
    await begin();
    const { exitCode, stdout, stderr } = await migrate('--mode', mode);
    expect(exitCode, stderr).toBe(0);
    const result = JSON.parse(stdout) as Moved;
    expect(result).toMatchObject({ mode: 'cold', node: 'b', addresses: [address] });
    const said = JSON.stringify(result);
    if (mode === 'auto') expect(said).toContain('runtime handler plain');
    expect(said).not.toContain('"restore"');
    await expectDiary('start', 'stop', 'start');
    expect(await places()).toEqual(['b']);
    for (const node of world.nodes) {
      const shown = await world.gantry(node, 'migrations', 'show', result.operation);
      expect(JSON.parse(shown.stdout)).toMatchObject({ state: 'serving', mode: 'cold' });
    }
  },
);

test('auto moves alive what can be checkpointed', async () => {
  await begin('');
  const { exitCode, stdout, stderr } = await migrate('--mode', 'auto');
  expect(exitCode, stderr).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ mode: 'stop-and-copy' });
  await expectDiary('start');
});

test('a rollback starts it anew as it was when it had ended', async () => {
  await begin();
  const { stdout } = await migrate('--mode', 'cold');
  const { operation } = JSON.parse(stdout) as Moved;
  await expectDiary('start', 'stop', 'start');
  const { exitCode, stderr, stdout: told } = await world.gantry(world.a, 'rollback', operation);
  expect(exitCode, stderr).toBe(0);
  expect(JSON.parse(told)).toMatchObject({ mode: 'cold', warnings: [expect.stringContaining('started anew')] });
  await expectDiary('start', 'stop', 'start');
  expect(await places()).toEqual(['a']);
  await world.expectNothingLeft();
});

describe('before the commit any failure starts it again here, with its files', () => {
  test('it does not stay up there', async () => {
    // There are no nodes' names in a pod: the second start finds the diary of the first.
    await begin('plain', `[ -e /diary ] && [ ! -e /data/stay ] && exit 1; ${SCRIPT}`);
    const ended = await migrate('--mode', 'cold');
    expectReason(ended, 'VERIFICATION_FAILED', 'on node b');
    // The same again here: its files are there.
    await until('it has been started again', async () => (await attempts()).includes(1));
    expect(await places()).toEqual([]);
  });

  test('a probe fails', async () => {
    await begin();
    expectReason(await migrate('--mode', 'cold', '--verify-tcp', '9', '--verify-timeout', '1'), 'VERIFICATION_FAILED');
    await expectDiary('start', 'stop', 'start');
    expect(await places()).toEqual(['a']);
    await world.expectNothingLeft();
  });

  test('a probe of what takes its time to start does not', async () => {
    await begin('plain', SCRIPT.replace('httpd', 'sleep 0.7; httpd'));
    const { exitCode, stderr } = await migrate('--mode', 'cold', '--verify-http', '8080/diary');
    expect(exitCode, stderr).toBe(0);
    expect(await places()).toEqual(['b']);
    await expectDiary('start', 'stop', 'start');
  });

  test('it is cancelled while it stops', async () => {
    await begin();
    const command = world.begin(world.a, 'migrate', NAME, '--to', 'b', '--mode', 'cold');
    await command.reached('sync files');
    await sleep(100);
    command.signal('SIGINT');
    expectReason(await command.ended, 'CANCELLED');
    await expectDiary('start', 'stop', 'start');
    expect(await places()).toEqual(['a']);
    expect(await attempts()).toEqual([1]);
    await world.expectNothingLeft();
  });

  test.each([
    ['sync files', 50],
    ['stop', 0],
    ['sync files again', 0],
  ])("the source's agent is killed after %s and %i ms", async (phase, delayMs) => {
    await begin();
    const command = world.begin(world.a, 'migrate', NAME, '--to', 'b', '--mode', 'cold');
    await command.reached(phase);
    await sleep(delayMs);
    await world.restart(world.a, 'agent');
    await command.ended;
    await expectOneCopy();
  });
});

test.each([
  ['a', 'commit', 0],
  ['b', 'commit', 0],
  ['b', 'commit', 60],
] as const)("%s's agent is killed after %s and %i ms: it starts here or there, once", async (name, phase, delayMs) => {
  await begin();
  const command = world.begin(world.a, 'migrate', NAME, '--to', 'b', '--mode', 'cold');
  await command.reached(phase);
  await sleep(delayMs);
  await world.restart(name === 'a' ? world.a : world.b, 'agent');
  await command.ended;
  await expectOneCopy();
});

/*
 * What the death of an agent can leave of a start that was under way: containerd gives it up at its end, and its CRI then says
 * CREATED of what runs, and refuses to remove it.
 */
test('a placeholder whose container runs without its CRI knowing is removed by the next agent', async () => {
  using cri = new Cri(world.b.runtimeSocket);
  const sandboxMetadata = { name: NAME, namespace: 'default', uid: 'c01d', attempt: 0 };
  const sandboxConfig = PodSandboxConfig.fromPartial({ metadata: sandboxMetadata, logDirectory: '/var/log/pods/c01d' });
  const sandbox = await cri.runSandbox(sandboxConfig, '');
  const config = ContainerConfig.fromPartial({
    metadata: { name: NAME, attempt: 0 },
    image: { image: world.images.busybox },
    command: ['sleep', '1000'],
    logPath: 'log',
  });
  const id = await cri.createContainer(sandbox, config, sandboxConfig);
  await world.exec(world.b, 'ctr', '-n', 'k8s.io', 'tasks', 'start', '--detach', '--null-io', id);
  expect((await cri.describe(id)).state).toBe(ContainerState.CONTAINER_CREATED);
  await expect(cri.removeContainer(id)).rejects.toThrow('cannot delete');

  const operation = '00000000c01dc01d';
  const entry = { version: 1, role: 'target', state: 'preparing', operation, peer: 'a', sandboxMetadata, sandbox };
  const containers = [{ id, processes: 0, stopped: [] }];
  {
    await using _without = await world.without(world.b, 'agent');
    const file = world.path(world.b, `/var/lib/gantry/migrations/${operation}.target.json`);
    await writeFile(file, JSON.stringify({ ...entry, containers }));
  }

  expect((await cri.listContainers()).map((one) => one.id)).not.toContain(id);
  await world.expectNothingLeft();
});

/** It has started once more, or not at all when it was never stopped, and nothing of it is left elsewhere. */
async function expectOneCopy(): Promise<void> {
  await until(
    'there is one copy, at its address',
    async () => (await places()).length === 1 && (await diary()).length > 0,
  );
  const lines = await diary();
  expect(['start', 'start,stop,start']).toContain(lines.join());
  expect(await diary('data/diary')).toEqual(lines);
  await world.expectNothingLeft();
  expect(await places()).toHaveLength(1);
}

async function attempts(): Promise<number[]> {
  using cri = new Cri(world.a.runtimeSocket);
  const own = (await cri.listContainers()).filter(({ metadata }) => metadata?.name === NAME);
  return own.map(({ metadata }) => metadata?.attempt ?? 0);
}

test('what is kept says that it has no memory', async () => {
  await begin();
  const { stdout } = await migrate('--mode', 'cold');
  const { operation } = JSON.parse(stdout) as Moved;
  expect(await readdir(world.path(world.a, '/var/lib/gantry/retained'))).toContain(`${operation}.tar`);
  const entry = await readFile(world.path(world.a, `/var/lib/gantry/migrations/${operation}.source.json`), 'utf8');
  expect(JSON.parse(entry)).toMatchObject({ state: 'retained', mode: 'cold' });
});
