import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ContainerState } from '../../src/gen/cri.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { Slots } from '../../src/surgery/slots.ts';
import { leftoversOn } from '../e2e/leftovers.ts';
import { Kubelet, type KubeletPod } from '../kubelet.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { nodeNamed } from '../scenario.ts';
import { operate, type Verb } from '../surgery.ts';

/*
 * Surgery on pods of a kubelet that looks all the time: it must see nothing but what an operation says that it shows.
 */

const NAME = 't-surgery';
// It ends when it is asked to, and tells on which run of it this is.
const SERVE = ['sh', '-c', 'trap "exit 0" TERM; echo $$ >> /runs; echo started; while :; do sleep 0.05; done'];

let lab: LabEnvironment;
let node: NodeEnvironment;
let kubelet: Kubelet;

beforeAll(async () => {
  lab = await labUp({ name: NAME, nodes: 1 });
  node = nodeNamed(lab, 'a');
});
afterAll(() => labDown(NAME));

beforeEach(() => {
  // Four times as often as a real one: what that could miss, this sees.
  kubelet = new Kubelet(node.criSocket, 250);
});
afterEach(async () => {
  for (const pod of [...kubelet.pods]) await kubelet.removePod(pod);
  await kubelet[Symbol.asyncDispose]();
  await expectNothingLeft();
});

const pod = (name: string) => kubelet.runPod(name, lab.images.busybox, SERVE);
const act = (verb: Verb, request: Parameters<typeof operate>[2]) => operate(node.agentSocket, verb, request);
const config = (command: string[]) => JSON.stringify({ command });

async function expectNothingLeft(): Promise<void> {
  using cri = new Cri(node.runtimeSocket);
  using slots = new Slots(node.criSocket);
  // What a client has ended is cleared away by the agent, which looks every ten seconds.
  for (let round = 0; round < 150; round++) {
    if ((await cri.listContainers()).length === 0 && (await slots.list()).length === 0) break;
    await sleep(100);
  }
  expect([await cri.listSandboxes(), await cri.listContainers(), await slots.list()]).toEqual([[], [], []]);
  expect(await leftoversOn(lab, node)).toEqual([]);
}

/** The runtime's own view of a pod: names and states of its containers. */
async function really({ sandbox }: KubeletPod): Promise<string[]> {
  using cri = new Cri(node.runtimeSocket);
  const own = (await cri.listContainers()).filter(({ podSandboxId }) => podSandboxId === sandbox);
  return own.map(({ id, state }) => `${id} ${state === ContainerState.CONTAINER_RUNNING ? 'running' : 'not running'}`);
}

async function watched(): Promise<void> {
  kubelet.watch();
  await sleep(500);
}

/** Long enough for kubelet to look and to probe again. */
async function expectUnseen(): Promise<void> {
  const { relists, probes } = kubelet;
  for (let round = 0; round < 100 && (kubelet.relists < relists + 2 || kubelet.probes === probes); round++)
    await sleep(100);
  expect(kubelet.relists).toBeGreaterThan(relists + 1);
  expect(kubelet.changes).toEqual([]);
}

describe('kubelet sees nothing of', () => {
  test('a swap, and another container is there', async () => {
    const one = await pod('swapped');
    await watched();
    const result = await act('swap', { target: 'main', configJson: config([...SERVE, 'second']) });
    expect(result.containerId).not.toBe(one.container);
    expect(await kubelet.exec(one.container, ['cat', '/runs'])).toBe('1\n');
    expect(await kubelet.exec(one.container, ['cat', '/proc/1/cmdline'])).toContain('second');
    await expectUnseen();
    expect(await really(one)).toEqual(
      expect.arrayContaining([`${result.containerId} running`, `${one.container} not running`]),
    );
  });

  test('a rollback: the one before is there again, with its files', async () => {
    const one = await pod('rolled-back');
    await watched();
    await kubelet.exec(one.container, ['sh', '-c', 'mkdir -p /kept && echo mine > /kept/file && rm /bin/vi']);
    await act('swap', { target: one.container, configJson: config([...SERVE, 'second']) });
    await act('rollback', { target: one.container });
    expect(await kubelet.exec(one.container, ['cat', '/kept/file', '/runs'])).toBe('mine\n1\n1\n');
    expect(await kubelet.exec(one.container, ['sh', '-c', 'ls /bin/vi 2>/dev/null || echo gone'])).toBe('gone\n');
    await expectUnseen();
  });

  test('a swap that freezes: a rollback lets the very same process go on', async () => {
    const one = await pod('frozen');
    await watched();
    const began = await kubelet.exec(one.container, ['sh', '-c', 'cut -d" " -f22 /proc/1/stat']);
    await act('swap', { target: one.container, configJson: config([...SERVE, 'second']), keepState: true });
    await sleep(300);
    const back = await act('rollback', { target: one.container });
    expect(back.containerId).toBe(one.container);
    expect(await kubelet.exec(one.container, ['sh', '-c', 'cut -d" " -f22 /proc/1/stat'])).toBe(began);
    await expectUnseen();
  });

  test.each([
    ['does not start', ['/no/such/program'], false],
    ['ends at once', ['false'], false],
    ['ends at once, the old one being frozen', ['false'], true],
  ])('a swap whose new one %s: the old one is back', async (_what, command, keepState) => {
    const one = await pod('failing');
    await watched();
    const wrong = act('swap', { target: one.container, configJson: config(command), keepState });
    await expect(wrong).rejects.toMatchObject({ reason: 'SWAP_FAILED' });
    expect(await kubelet.exec(one.container, ['cat', '/runs'])).toBe(keepState ? '1\n' : '1\n1\n');
    await expectUnseen();
    expect((await really(one)).filter((line) => line.endsWith(' running'))).toHaveLength(1);
  });

  test('a container that is taken out, and of one that takes its place', async () => {
    const one = await pod('emptied');
    await watched();
    await act('remove', { target: one.container });
    expect(await really(one)).toEqual([]);
    await expect(kubelet.exec(one.container, ['true'])).rejects.toMatchObject({ code: 9 });
    await sleep(1000);
    expect(kubelet.changes).toEqual([]);
    const { slotId } = await act('insert', { target: one.sandbox, name: 'main' });
    expect(slotId).toBe(one.container);
    expect(await kubelet.exec(one.container, ['cat', '/runs'])).toBe('1\n');
    await expectUnseen();
  });

  test('one that is kept frozen while another takes its place, and then goes on', async () => {
    const one = await pod('kept');
    await watched();
    const began = await kubelet.exec(one.container, ['sh', '-c', 'cut -d" " -f22 /proc/1/stat']);
    await act('remove', { target: one.container, keepState: true });
    await act('insert', { target: one.sandbox, name: 'main', configJson: config([...SERVE, 'second']) });
    expect(await kubelet.exec(one.container, ['sh', '-c', 'cut -d" " -f22 /proc/1/stat'])).not.toBe(began);
    const { containerId } = await act('rollback', { target: one.container });
    expect(containerId).toBe(one.container);
    expect(await kubelet.exec(one.container, ['sh', '-c', 'cut -d" " -f22 /proc/1/stat'])).toBe(began);
    await expectUnseen();
  });

  test('an extra container that ends by itself, and is cleared away', async () => {
    const one = await pod('with-short-extra');
    await watched();
    const request = { target: one.sandbox, name: 'side', image: lab.images.busybox };
    const { containerId } = await act('insert', { ...request, configJson: config(['sh', '-c', 'sleep 1; exit 3']) });
    using slots = new Slots(node.criSocket);
    const extra = async () => (await slots.list()).find(({ occupant }) => occupant === containerId);
    const isOver = async () => (await extra())?.exit?.code === 3;
    for (let tries = 0; tries < 150 && !(await isOver()); tries++) await sleep(100);
    expect(await extra()).toMatchObject({ exit: { code: 3 } });
    await act('remove', { target: containerId });
    expect(await extra()).toBeUndefined();
    await expectUnseen();
  });

  test('an extra container, which is in the same network and ends with the sandbox', async () => {
    const one = await pod('with-extra');
    await watched();
    const { containerId } = await act('insert', {
      target: one.sandbox,
      name: 'side',
      image: lab.images.busybox,
      configJson: config(SERVE),
    });
    await expectUnseen();
    expect(await really(one)).toEqual(expect.arrayContaining([`${containerId} running`, `${one.container} running`]));
    const again = act('insert', { target: one.sandbox, name: 'side', image: lab.images.busybox });
    await expect(again).rejects.toMatchObject({ reason: 'NAME_TAKEN' });
  });

  test('a container that comes from a checkpoint: its memory is what it was', async () => {
    const remember = [
      'sh',
      '-c',
      // Renamed into its place: one who reads it never finds it empty.
      'id=$(cat /proc/sys/kernel/random/uuid); while :; do echo $id > /new; mv /new /id; sleep 0.05; done',
    ];
    const one = await kubelet.runPod('remembering', lab.images.busybox, remember);
    await watched();
    await sleep(300);
    const id = await kubelet.exec(one.container, ['cat', '/id']);
    const gantry = async (...args: string[]) => (await labExec(NAME, 'a', ['gantry', ...args])).stdout;
    await gantry('checkpoint', one.container, '--output', '/var/tmp/remembered', '--leave-running');
    await act('swap', { target: one.container, configJson: config(remember), graceSeconds: 0 });
    await sleep(300);
    expect(await kubelet.exec(one.container, ['cat', '/id'])).not.toBe(id);
    const said = await gantry('swap', 'main', '--checkpoint', '/var/tmp/remembered', '--grace', '0');
    expect(said).toMatch(/^main is container [0-9a-f]{13} now; changed over in \d+ ms$/);
    await kubelet.exec(one.container, ['rm', '/id']);
    await sleep(300);
    expect(await kubelet.exec(one.container, ['cat', '/id'])).toBe(id);
    await expectUnseen();
    // A checkpoint of what is in a slot now is one of a container like any other.
    await gantry('checkpoint', 'main', '--output', '/var/tmp/again', '--leave-running');
    await labExec(NAME, 'a', ['rm', '-r', '/var/tmp/remembered', '/var/tmp/again']);
  });

  test('a hundred operations in random order on ten pods', async () => {
    const pods = await Promise.all(Array.from({ length: 10 }, (_, index) => pod(`random-${index}`)));
    await watched();
    const random = seeded(20_261_124);
    const done: string[] = [];
    const queue = Array.from({ length: 100 }, () => pods[Math.floor(random() * pods.length)] as KubeletPod);
    const perPod = pods.map(async (one) => {
      for (const next of queue) if (next === one) done.push(await randomOperation(one, random));
    });
    await Promise.all(perPod);
    expect(done).toHaveLength(100);
    await expectUnseen();
    for (const one of pods) {
      expect(one.restarts).toBe(0);
      expect(await kubelet.statusOf(one.container)).toMatchObject({ state: ContainerState.CONTAINER_RUNNING });
    }
    expect(new Set(done.map((line) => line.split(' ')[0]))).toEqual(new Set(['swap', 'insert', 'remove', 'rollback']));
  }, 300_000);
});

async function randomOperation({ sandbox, container: target }: KubeletPod, random: () => number): Promise<string> {
  using slots = new Slots(node.criSocket);
  const slot = (await slots.list()).find(({ id }) => id === target);
  const keepState = random() < 0.4;
  if (slot?.occupant === '') {
    const isBack = slot.retained !== undefined && random() < 0.5;
    if (isBack) await act('rollback', { target });
    else await act('insert', { target: sandbox, name: 'main', configJson: config(SERVE) });
    return isBack ? 'rollback' : 'insert';
  }
  const dice = random();
  if (dice < 0.25) {
    await act('remove', { target, keepState });
    return 'remove';
  }
  if (dice < 0.5 && slot?.retained !== undefined) {
    await act('rollback', { target, keepState });
    return 'rollback';
  }
  if (dice < 0.6) {
    // On a busy machine containerd takes its time to tell of an end.
    const wrong = act('swap', { target, configJson: config(['false']), keepState, settleMs: 3000 });
    await expect(wrong).rejects.toMatchObject({ reason: 'SWAP_FAILED' });
    return 'swap that failed';
  }
  await act('swap', { target, configJson: config([...SERVE, String(dice)]), keepState });
  return 'swap';
}

/** Numbers from 0 to 1, the same in every run (mulberry32). */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

describe('what kubelet does to a slot', () => {
  test('an empty one that it stops has exited, and its own restart policy starts the next container', async () => {
    const one = await pod('stopped');
    const before = one.container;
    await act('remove', { target: before });
    await kubelet.stopContainer(before, 1);
    expect(await kubelet.statusOf(before)).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 137 });
    await expect(act('insert', { target: one.sandbox, name: 'main' })).rejects.toMatchObject({ reason: 'NOT_RUNNING' });
    kubelet.watch();
    for (let round = 0; round < 50 && one.container === before; round++) await sleep(100);
    expect(one.restarts).toBe(1);
    expect(await really(one)).toEqual([`${one.container} running`]);
  });

  test('it sees the end of a container that was inserted, under the ID that it knows', async () => {
    const one = await pod('ending');
    const before = one.container;
    await act('swap', { target: before, configJson: config(['sh', '-c', 'sleep 2; exit 7']), settleMs: 100 });
    kubelet.watch();
    for (let round = 0; round < 100 && one.container === before; round++) await sleep(100);
    const seen = kubelet.changes.find((line) => line.includes('has status')) ?? '';
    expect(seen).toContain(`"id":"${before}"`);
    expect(seen).toContain('"exitCode":7');
    expect(one.restarts).toBe(1);
  });

  test('stopping an inserted one stops the real one', async () => {
    const one = await pod('stopping');
    const { containerId } = await act('swap', { target: one.container, configJson: config([...SERVE, 'second']) });
    await kubelet.stopContainer(one.container, 1);
    expect(await kubelet.statusOf(one.container)).toMatchObject({
      state: ContainerState.CONTAINER_EXITED,
      exitCode: 0,
    });
    expect(await really(one)).toContain(`${containerId} not running`);
  });

  test('its log is rotated', async () => {
    const one = await pod('rotating');
    await act('swap', {
      target: one.container,
      configJson: config(['sh', '-c', 'while :; do echo line; sleep 0.05; done']),
    });
    const file = `${one.sandboxConfig.logDirectory}/main/0.log`;
    const rotate = async () => {
      await labExec(NAME, 'a', ['mv', file, `${file}.old`]);
      await kubelet.reopenLog(one.container);
      await sleep(300);
      return (await labExec(NAME, 'a', ['cat', file])).stdout;
    };
    expect(await rotate()).toContain('line');
    await act('remove', { target: one.container, graceSeconds: 0 });
    expect(await rotate()).toBe('');
  });

  test.each(['by a rollback', 'as the one that came has ended'])(
    'its log, rotated while it was frozen, goes on %s',
    async (how) => {
      const one = await kubelet.runPod('thawing', lab.images.busybox, [
        'sh',
        '-c',
        'while :; do echo line; sleep 0.05; done',
      ]);
      const file = `${one.sandboxConfig.logDirectory}/main/0.log`;
      const rotate = async () => {
        await labExec(NAME, 'a', ['mv', file, `${file}.old`]);
        await kubelet.reopenLog(one.container);
      };
      const request = { target: one.container, keepState: true };
      if (how === 'by a rollback') {
        await act('swap', { ...request, configJson: config(SERVE) });
        await rotate();
        await act('rollback', { target: one.container });
      } else {
        const swap = act('swap', { ...request, configJson: config(['sh', '-c', 'sleep 3; false']), settleMs: 6000 });
        const isOver = expect(swap).rejects.toMatchObject({ reason: 'SWAP_FAILED' });
        await sleep(1500);
        await rotate();
        await isOver;
      }
      await sleep(300);
      expect((await labExec(NAME, 'a', ['cat', file])).stdout).toContain('line');
    },
  );

  test('its log goes on in the same file', async () => {
    const one = await pod('logging');
    await act('swap', { target: one.container, configJson: config(SERVE) });
    const file = `${one.sandboxConfig.logDirectory}/main/0.log`;
    expect(await kubelet.statusOf(one.container)).toMatchObject({ logPath: file });
    const { stdout } = await labExec(NAME, 'a', ['cat', file]);
    expect(stdout.split('\n').filter((line) => line.endsWith('started'))).toHaveLength(2);
  });
});

describe.each(['trixie', 'bookworm'] as const)('on a node of %s', (suite) => {
  const name = `${NAME}-${suite}`;
  afterAll(() => labDown(name));

  test('a swap, a rollback, and an empty slot are seen no more than on any other', async () => {
    const other = await labUp({ name, nodes: 1, suite });
    const { criSocket, agentSocket } = nodeNamed(other, 'a');
    await using watching = new Kubelet(criSocket);
    const one = await watching.runPod('older', other.images.busybox, SERVE);
    watching.watch();
    const { container: target, sandbox } = one;
    await operate(agentSocket, 'swap', { target, configJson: config([...SERVE, 'second']) });
    expect(await watching.exec(target, ['cat', '/proc/1/cmdline'])).toContain('second');
    await operate(agentSocket, 'rollback', { target, keepState: true });
    await operate(agentSocket, 'rollback', { target });
    expect(await watching.exec(target, ['cat', '/proc/1/cmdline'])).toContain('second');
    await operate(agentSocket, 'remove', { target });
    await sleep(1500);
    await operate(agentSocket, 'insert', { target: sandbox, name: 'main' });
    expect(await watching.exec(target, ['cat', '/runs'])).toBe('1\n');
    await sleep(2500);
    expect([watching.changes, one.restarts]).toEqual([[], 0]);
    await watching.removePod(one);
  });
});

describe('refused, before anything is touched, is', () => {
  test.each([
    ['a container that does not exist', 'swap', { target: 'nobody', image: 'x' }, 'NOT_FOUND'],
    ['an image that is missing', 'swap', { target: 'main', image: 'no.such/image:1' }, 'IMAGE_MISSING'],
    ['a swap for nothing', 'swap', { target: 'main' }, 'USAGE'],
    ['a configuration that is none', 'swap', { target: 'main', configJson: '{"mounts": 3' }, 'USAGE'],
    ['a rollback to nobody', 'rollback', { target: 'main' }, 'NOTHING_RETAINED'],
    ['a checkpoint that is none', 'swap', { target: 'main', checkpoint: '/nowhere' }, 'NOT_FOUND'],
  ] as const)('%s', async (_what, verb, request, reason) => {
    const one = await pod('refused');
    const before = await really(one);
    await expect(act(verb, request)).rejects.toMatchObject({ reason });
    expect(await really(one)).toEqual(before);
    using slots = new Slots(node.criSocket);
    expect(await slots.list()).toEqual([]);
  });

  test('a sandbox, a name that is taken, an empty slot, and a second operation', async () => {
    const one = await pod('refused');
    await expect(act('swap', { target: one.sandbox, image: lab.images.busybox })).rejects.toMatchObject({
      reason: 'IS_SANDBOX',
    });
    await expect(act('insert', { target: one.sandbox, name: 'main' })).rejects.toMatchObject({ reason: 'NAME_TAKEN' });
    const swapping = act('swap', { target: 'main', configJson: config(SERVE), settleMs: 1500, key: 'once' });
    await sleep(700);
    await expect(act('remove', { target: 'main' })).rejects.toMatchObject({ reason: 'BUSY' });
    const first = await swapping;
    // The same key again is the same operation.
    expect((await act('swap', { target: 'main', configJson: config(SERVE), key: 'once' })).containerId).toBe(
      first.containerId,
    );
    await act('remove', { target: 'main' });
    await expect(act('swap', { target: 'main', configJson: config(SERVE) })).rejects.toMatchObject({
      reason: 'SLOT_EMPTY',
    });
  });
});
