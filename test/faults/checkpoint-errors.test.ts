import { readdir, readFile, watch, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ContainerState, RuntimeServiceService } from '../../src/gen/cri.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { connectSocket, unary } from '../../src/runtime/grpc.ts';
import type { Pod } from '../pods.ts';
import { exists, expectReason, type Served, until, World } from './world.ts';

/** A checkpoint of a busybox, whole; what a test breaks is a copy of it. */
const WHOLE = '/var/tmp/whole';

let world: World;
let pod: Pod;
let served: Served;
/** For restores: ready and empty. */
let sandbox: string;

beforeAll(async () => {
  world = await World.up('t-checkpoint-errors');
  const first = await world.serveRedis({ mebibytes: 24 });
  await first.counter.stop();
  pod = first.pod;
  const { container, sandbox: host } = await world.runContainer(world.a, { name: 'box' });
  sandbox = host;
  const saved = await world.gantry(world.a, 'checkpoint', container, '--output', WHOLE);
  expect(saved.exitCode, saved.stderr).toBe(0);
  using cri = new Cri(world.a.runtimeSocket);
  await cri.removeContainer(container);
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.connect(pod);
});
afterEach(() => served?.counter.stop(0));

function checkpoint(container: string, output: string, ...options: string[]) {
  return world.gantry(world.a, 'checkpoint', container, '--output', output, '--tcp-established', ...options);
}

function restore(folder: string, into = sandbox) {
  return world.gantry(world.a, 'restore', folder, '--sandbox', into);
}

/** The Redis goes on, no folder was made, and nothing else is anywhere. */
async function expectUntouched(output?: string): Promise<void> {
  await served.expectAlive('a');
  await world.expectNothingLeft();
  if (output !== undefined) expect(await exists(world.path(world.a, output))).toBe(false);
}

/** CRIU's whole log was kept for the operator. */
async function expectLog(name: RegExp, says: RegExp): Promise<void> {
  const logs = world.path(world.a, '/var/lib/gantry/logs');
  const [kept] = (await readdir(logs)).filter((file) => name.test(file));
  expect(await readFile(`${logs}/${kept}`, 'utf8')).toMatch(says);
}

/** No container is left in the sandbox that a restore was to use. */
async function expectSandboxEmpty(): Promise<void> {
  using cri = new Cri(world.a.runtimeSocket);
  const there = (await cri.listContainers()).filter(({ podSandboxId }) => podSandboxId === sandbox);
  expect(there.map(({ id }) => id)).toEqual([]);
  await expectUntouched();
}

describe('a checkpoint', () => {
  test('of a container that does not exist, has ended, or is a sandbox', async () => {
    expectReason(await checkpoint('nobody', '/var/tmp/x'), 'NOT_FOUND', 'nobody');
    expectReason(await checkpoint(pod.sandbox, '/var/tmp/x'), 'IS_SANDBOX', pod.sandbox);
    const ended = await world.runContainer(world.a, { name: 'ended', container: { command: ['true'] } });
    using cri = new Cri(world.a.runtimeSocket);
    await until('it has ended', async () => {
      return (await cri.describe(ended.container)).state === ContainerState.CONTAINER_EXITED;
    });
    expectReason(await checkpoint('ended', '/var/tmp/x'), 'NOT_RUNNING', 'ended');
    await cri.removeSandbox(ended.sandbox);
    await expectUntouched('/var/tmp/x');
  });

  test('into a folder that exists: its content stays', async () => {
    await world.shell(world.a, 'mkdir -p /var/tmp/there && echo mine >/var/tmp/there/file');
    expectReason(await checkpoint(pod.container, '/var/tmp/there'), 'USAGE', '/var/tmp/there', /exists/);
    expect(await readFile(world.path(world.a, '/var/tmp/there/file'), 'utf8')).toBe('mine\n');
    await expectUntouched();
  });

  test('into a folder whose parent does not exist', async () => {
    expectReason(await checkpoint(pod.container, '/var/tmp/no/such/folder'), 'USAGE', '/var/tmp/no/such');
    await expectUntouched('/var/tmp/no');
  });

  test('of open connections without --tcp-established', async () => {
    const ended = await world.gantry(world.a, 'checkpoint', pod.container, '--output', '/var/tmp/x');
    expectReason(ended, 'CHECKPOINT_FAILED', pod.container, /TCP/);
    expect(ended.failure?.hint).toContain('--tcp established');
    await expectLog(/dump\.log$/, /TCP/);
    await expectUntouched('/var/tmp/x');
  });

  test('with a terminal', async () => {
    const terminal = await world.runContainer(world.a, { name: 'terminal', container: { tty: true, stdin: true } });
    expectReason(await checkpoint('terminal', '/var/tmp/x'), 'UNSUPPORTED', /terminal/);
    using cri = new Cri(world.a.runtimeSocket);
    expect((await cri.describe(terminal.container)).state).toBe(ContainerState.CONTAINER_RUNNING);
    await cri.removeSandbox(terminal.sandbox);
    await expectUntouched('/var/tmp/x');
  });

  test('of a process that a signal has stopped, which goes on as it was', async () => {
    const { container, sandbox: own } = await world.runContainer(world.a, { name: 'stopped' });
    using cri = new Cri(world.a.runtimeSocket);
    const { pid } = await cri.describe(container);
    await world.shell(world.a, `kill -STOP ${pid}`);
    expectReason(await checkpoint('stopped', '/var/tmp/x'), 'UNSUPPORTED', /is stopped/);
    await world.shell(world.a, `kill -CONT ${pid}`);
    const saved = await checkpoint('stopped', '/var/tmp/x');
    expect(saved.exitCode, saved.stderr).toBe(0);
    await world.shell(world.a, 'rm -r /var/tmp/x');
    await cri.removeSandbox(own);
    await expectUntouched('/var/tmp/x');
  });

  test('without CRIU', async () => {
    {
      await using _ = await world.withoutCriu(world.a);
      expectReason(await checkpoint(pod.container, '/var/tmp/x'), 'CRIU_MISSING', /CRIU/);
    }
    await expectUntouched('/var/tmp/x');
  });

  test('without containerd', async () => {
    {
      await using _ = await world.without(world.a, 'containerd');
      expectReason(await checkpoint(pod.container, '/var/tmp/x'), 'RUNTIME_UNAVAILABLE');
    }
    await expectUntouched('/var/tmp/x');
  });

  test('without an agent', async () => {
    {
      await using _ = await world.without(world.a, 'agent');
      expectReason(await checkpoint(pod.container, '/var/tmp/x'), 'AGENT_UNAVAILABLE', 'agent.sock');
    }
    await expectUntouched('/var/tmp/x');
  });

  describe.each(['--output', '--archive'])('by %s', (option) => {
    /** Nothing is left under the name that was asked for, nor beside it. */
    async function expectNothingAt(folder: string): Promise<void> {
      expect((await readdir(world.path(world.a, folder))).filter((name) => name.startsWith('x'))).toEqual([]);
      await expectUntouched();
    }
    const begin = (path: string, ...options: string[]) =>
      world.begin(world.a, 'checkpoint', pod.container, option, path, '--tcp-established', ...options);

    test('onto a filesystem that is too small', async () => {
      await using _ = await world.smallFolder(world.a, '/var/tmp/small', 4);
      expectReason(await begin('/var/tmp/small/x').ended, 'NO_SPACE', '/var/tmp/small', /4 MiB free/);
      await expectNothingAt('/var/tmp/small');
    });

    test('onto a filesystem that fills up in the middle', async () => {
      await using _ = await world.smallFolder(world.a, '/var/tmp/small', 96);
      const command = begin('/var/tmp/small/x', '--leave-running');
      await command.reached('check');
      await world.shell(world.a, 'fallocate -l 88m /var/tmp/small/filler');
      expectReason(await command.ended, 'NO_SPACE');
      await expectNothingAt('/var/tmp/small');
    });

    test('that is cancelled lets the container go on', async () => {
      const command = begin('/var/tmp/x');
      await command.reached('freeze');
      command.signal('SIGINT');
      expectReason(await command.ended, 'CANCELLED');
      await expectNothingAt('/var/tmp');
    });

    test('whose agent is killed as soon as there is anything of it leaves nothing', async () => {
      const agent = await world.pidOf(world.a, 'agent');
      const over = new AbortController();
      const killed = (async () => {
        for await (const { filename } of watch(world.path(world.a, '/var/tmp'), { signal: over.signal })) {
          if (filename?.startsWith('x') !== true) continue;
          process.kill(agent, 'SIGKILL');
          return;
        }
      })();
      const ended = await begin('/var/tmp/x').ended;
      over.abort();
      await killed;
      expectReason(ended, 'AGENT_UNAVAILABLE', 'agent.sock');
      await world.ready(world.a, 'agent');
      await expectNothingAt('/var/tmp');
    });

    test.each(process.env.GANTRY_ALL_MOMENTS === '1' ? [0, 30, 100, 200] : [100])(
      'whose agent is killed %i ms after it has frozen it lets the container go on',
      async (ms) => {
        const agent = await world.pidOf(world.a, 'agent');
        const command = begin('/var/tmp/x');
        await command.reached('freeze');
        await sleep(ms);
        process.kill(agent, 'SIGKILL');
        expectReason(await command.ended, 'AGENT_UNAVAILABLE', 'agent.sock');
        await world.ready(world.a, 'agent');
        await expectNothingAt('/var/tmp');
      },
    );
  });
});

describe('a restore', () => {
  test('wrong usage', async () => {
    const { exitCode, stderr } = await world.gantry(world.a, 'restore', WHOLE);
    expect(exitCode).toBe(2);
    expect(stderr).toContain('--sandbox');
  });

  test('of a folder that does not exist, or holds no checkpoint', async () => {
    expectReason(await restore('/var/tmp/nothing'), 'NOT_FOUND', '/var/tmp/nothing');
    expectReason(await restore('/etc'), 'NOT_FOUND', /\/etc holds no checkpoint/);
    await expectSandboxEmpty();
  });

  test('of a checkpoint whose manifest is broken', async () => {
    const folder = await broken('manifest', (manifest) =>
      writeFile(`${manifest}/gantry.json`, '{"version": 2, "conta'),
    );
    expectReason(await restore(folder), 'BAD_ARCHIVE', folder, /gantry\.json/);
    await expectSandboxEmpty();
  });

  test('into a sandbox that does not exist', async () => {
    expectReason(await restore(WHOLE, 'feedfacefeed'), 'NOT_FOUND', 'feedfacefeed');
    await expectSandboxEmpty();
  });

  test('into a sandbox that was stopped', async () => {
    const stopped = await world.runContainer(world.a, { name: 'stopped' });
    const client = connectSocket(world.a.runtimeSocket);
    const request = { podSandboxId: stopped.sandbox };
    await unary(client, RuntimeServiceService.stopPodSandbox, request, { timeoutMs: 20_000 });
    client.close();
    using cri = new Cri(world.a.runtimeSocket);
    expectReason(await restore(WHOLE, stopped.sandbox), 'NOT_RUNNING', stopped.sandbox);
    await cri.removeSandbox(stopped.sandbox);
    await expectSandboxEmpty();
  });

  test('without CRIU', async () => {
    {
      await using _ = await world.withoutCriu(world.a);
      expectReason(await restore(WHOLE), 'CRIU_MISSING', /CRIU/);
    }
    await expectSandboxEmpty();
  });

  test('without the image', async () => {
    const folder = await broken('image', async (manifest) => {
      const file = `${manifest}/gantry.json`;
      await writeFile(file, (await readFile(file, 'utf8')).replace(/sha256:\w{8}/, 'sha256:00000000'));
    });
    expectReason(await restore(folder), 'IMAGE_MISSING', 'node a', world.images.busybox);
    await expectSandboxEmpty();
  });

  test('without containerd', async () => {
    {
      await using _ = await world.without(world.a, 'containerd');
      expectReason(await restore(WHOLE), 'RUNTIME_UNAVAILABLE');
    }
    await expectSandboxEmpty();
  });

  const damages: Record<string, [script: string, says: RegExp]> = {
    "a process' core image is gone": ['rm core-1.img', /Unexpected EOF on \(empty-image\)/],
    'the list of images is gone': ['rm inventory.img', /Unexpected EOF on \(empty-image\)/],
    'the memory is gone': ['rm pages-1.img', /Can't read .*bytes/],
  };

  test.each(Object.entries(damages))('of a checkpoint of which %s', async (_, [damage, says]) => {
    const folder = await broken('damaged', () => world.shell(world.a, `cd /var/tmp/damaged/checkpoint && ${damage}`));
    await world.shell(world.a, 'rm -rf /var/lib/gantry/logs');
    const ended = await restore(folder);
    expectReason(ended, 'RESTORE_FAILED', /^starting container \w+: .*restore from checkpoint failed: /, says);
    // Noise of CRIU on machines that do not let root raise limits, and what joins the lines.
    expect(ended.failure?.message).not.toMatch(/RLIMIT_NOFILE|;$|;;/);
    await expectLog(/restore\.log$/, says);
    await expectSandboxEmpty();
  });

  test("of a checkpoint of which a process' core image is cut off: nothing is made", async () => {
    const folder = await broken('cut', () =>
      world.shell(world.a, 'truncate -s 100 /var/tmp/cut/checkpoint/core-1.img'),
    );
    expectReason(await restore(folder), 'BAD_ARCHIVE', /core-1\.img/);
    await expectSandboxEmpty();
  });

  test('of a checkpoint of which all images are gone', async () => {
    const folder = await broken('empty', () => world.shell(world.a, 'rm -r /var/tmp/empty/checkpoint'));
    expectReason(await restore(folder), 'NOT_FOUND', '/var/tmp/empty');
    await expectSandboxEmpty();
  });

  test('whose agent is killed in the middle leaves no container', async () => {
    const agent = await world.pidOf(world.a, 'agent');
    const command = world.begin(world.a, 'restore', WHOLE, '--sandbox', sandbox);
    await command.reached('restore files');
    process.kill(agent, 'SIGKILL');
    expectReason(await command.ended, 'AGENT_UNAVAILABLE');
    await world.ready(world.a, 'agent');
    await world.expectNothingLeft();
    await expectSandboxEmpty();
  });

  // CRIU 4.2 reads on for ever where the file of pages ends early, and writes hundreds of megabytes of log meanwhile.
  const endless = () =>
    broken('endless', () => world.shell(world.a, 'truncate -s 5000 /var/tmp/endless/checkpoint/pages-1.img'));

  test('that CRIU never ends is ended', async () => {
    expectReason(await restore(await endless()), 'RESTORE_FAILED', /no end/, /restore\.log/);
    await expectSandboxEmpty();
  });

  test('that CRIU never ends is ended when its agent is killed', async () => {
    const folder = await endless();
    const agent = await world.pidOf(world.a, 'agent');
    const command = world.begin(world.a, 'restore', folder, '--sandbox', sandbox);
    await command.reached('restore files');
    await sleep(500);
    process.kill(agent, 'SIGKILL');
    expectReason(await command.ended, 'AGENT_UNAVAILABLE');
    await world.ready(world.a, 'agent');
    await world.expectNothingLeft();
    await expectSandboxEmpty();
  });

  test('of what is whole works, after all that', async () => {
    const ended = await restore(WHOLE);
    expect(ended.exitCode, ended.stderr).toBe(0);
    const { containerId } = JSON.parse(ended.stdout) as { containerId: string };
    using cri = new Cri(world.a.runtimeSocket);
    expect((await cri.describe(containerId)).state).toBe(ContainerState.CONTAINER_RUNNING);
    await cri.stopContainer(containerId, 0);
    await cri.removeContainer(containerId);
    await expectSandboxEmpty();
    expect(await readdir(world.path(world.a, WHOLE))).toContain('gantry.json');
  });
});

/** A copy of the whole checkpoint with something wrong in it. */
async function broken(name: string, damage: (folder: string) => Promise<unknown>): Promise<string> {
  const folder = `/var/tmp/${name}`;
  await world.shell(world.a, `rm -rf ${folder} && cp -a ${WHOLE} ${folder}`);
  await damage(world.path(world.a, folder));
  return folder;
}
