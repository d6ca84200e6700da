import { rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { labThatIsUp, nodeOf } from '../../hack/nodes/registry.ts';
import { serviceProcess } from '../../hack/nodes/services.ts';
import { ContainerState } from '../../src/gen/cri.ts';
import { SlotPhase } from '../../src/gen/gantry/v1/slots.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { Slots } from '../../src/surgery/slots.ts';
import { leftoversOn } from '../e2e/leftovers.ts';
import { Kubelet, type KubeletPod } from '../kubelet.ts';
import { type LabEnvironment, labDown, labExec, labReboot, labUp, type NodeEnvironment, type Service } from '../lab.ts';
import { nodeNamed } from '../scenario.ts';
import { operate, type Verb } from '../surgery.ts';

/*
 * Something dies at a moment of an operation on a slot. Afterwards either the old or the new container is in it, and
 * runs; never both, and none only where none was asked for. Kubelet, which looks all the time, has seen nothing.
 */

const NAME = 't-surgery-crashes';
const SERVE = ['sh', '-c', 'trap "exit 0" TERM; echo started; while :; do sleep 0.05; done'];
const SECOND = JSON.stringify({ command: [...SERVE, 'second'] });

let lab: LabEnvironment;
let node: NodeEnvironment;
let kubelet: Kubelet;
let pod: KubeletPod;

beforeAll(async () => {
  lab = await labUp({ name: NAME, nodes: 1 });
  node = nodeNamed(lab, 'a');
});
afterAll(() => labDown(NAME));

beforeEach(async () => {
  kubelet = new Kubelet(node.criSocket, 250);
  pod = await kubelet.runPod('crashing', lab.images.busybox, SERVE);
  kubelet.watch();
});
afterEach(async () => {
  await kubelet.removePod(pod);
  await kubelet[Symbol.asyncDispose]();
  using cri = new Cri(node.runtimeSocket);
  using slots = new Slots(node.criSocket);
  await until(async () => (await cri.listContainers()).length === 0 && (await slots.list()).length === 0);
  expect([await cri.listContainers(), await slots.list()]).toEqual([[], []]);
  expect(await leftoversOn(lab, node)).toEqual([]);
});

async function until(isSo: () => Promise<boolean>, limitMs = 30_000): Promise<void> {
  const end = performance.now() + limitMs;
  while (performance.now() < end && !(await isSo().catch(() => false))) await sleep(100);
}

interface Case {
  readonly verb: Verb;
  readonly keepState?: boolean;
  readonly phase: string;
}

const SWAPS: Case[] = [
  { verb: 'swap', phase: 'prepare' },
  { verb: 'swap', phase: 'change over' },
  { verb: 'swap', phase: 'try' },
  { verb: 'swap', keepState: true, phase: 'change over' },
  { verb: 'swap', keepState: true, phase: 'try' },
];
const OTHERS: Case[] = [
  { verb: 'remove', phase: 'stop' },
  { verb: 'remove', keepState: true, phase: 'freeze' },
  { verb: 'insert', phase: 'change over' },
  { verb: 'insert', phase: 'try' },
  { verb: 'rollback', phase: 'prepare' },
  { verb: 'rollback', phase: 'change over' },
  { verb: 'rollback', keepState: true, phase: 'try' },
];

/** `make test-crashes` kills each in every phase; otherwise that is the agent's lot alone, whose operations they are. */
const ALL = process.env.GANTRY_ALL_MOMENTS === '1';
const FEW = [...SWAPS, ...OTHERS].filter(({ phase, keepState }) => phase === 'change over' && keepState !== true);

/** Brings the pod to where the operation can begin. */
async function prepareFor({ verb, keepState = false }: Case): Promise<void> {
  const target = pod.container;
  if (verb === 'insert') await operate(node.agentSocket, 'remove', { target });
  if (verb === 'rollback') await operate(node.agentSocket, 'swap', { target, configJson: SECOND, keepState });
}

/** Begins the operation and does `harm` as soon as the phase has begun. Whether it says that it has been done. */
async function harmed(
  what: Case,
  harm: (cut: AbortController) => Promise<void>,
  options: { readonly delayMs?: number; readonly onRetry?: (why: string) => void } = {},
): Promise<boolean> {
  const { delayMs = 0, onRetry } = options;
  const { verb, keepState = false, phase } = what;
  const target = verb === 'insert' ? pod.sandbox : pod.container;
  const request = {
    target,
    keepState,
    settleMs: 700,
    ...(verb === 'insert' && { name: 'main' }),
    ...(verb === 'swap' && { configJson: SECOND }),
  };
  const cut = new AbortController();
  let harming: Promise<void> | undefined;
  const onPhase = (name: string) => {
    if (name === phase) harming = sleep(delayMs).then(() => harm(cut));
  };
  const isDone = await operate(node.agentSocket, verb, request, { onPhase, onRetry, cut: cut.signal }).then(
    () => true,
    () => false,
  );
  expect(harming, `there was no phase "${phase}"`).toBeDefined();
  await harming;
  return isDone;
}

async function kill(service: Service): Promise<void> {
  const found = await labThatIsUp(NAME);
  const process_ = await serviceProcess(found, nodeOf(found, 'a'), service);
  if (process_ !== undefined) process.kill(process_.hostPid, 'SIGKILL');
}

/** Waits until the slot is settled, and tells who runs in the pod, as the runtime says. */
async function settled(): Promise<string[]> {
  using cri = new Cri(node.runtimeSocket);
  using slots = new Slots(node.criSocket);
  const isSettled = async () => {
    await cri.version();
    return (await slots.list()).every(({ operation, phase }) => operation === undefined && phase === SlotPhase.SETTLED);
  };
  await until(isSettled);
  expect(await isSettled()).toBe(true);
  const [slot] = await slots.list();
  const own = (await cri.listContainers()).filter(({ podSandboxId }) => podSandboxId === pod.sandbox);
  const running = own.filter(({ state }) => state === ContainerState.CONTAINER_RUNNING).map(({ id }) => id);
  const frozen = slot?.retained?.frozen === true ? [slot.retained.containerId] : [];
  const occupants = running.filter((id) => !frozen.includes(id));
  expect(occupants).toEqual(slot === undefined ? [pod.container] : slot.occupant === '' ? [] : [slot.occupant]);
  const known = [slot?.occupant ?? pod.container, ...(slot?.hidden ?? [])];
  expect(own.map(({ id }) => id).filter((id) => !known.includes(id))).toEqual([]);
  return occupants;
}

async function expectWhole({ verb }: Case, isDone: boolean): Promise<void> {
  const occupants = await settled();
  if (verb !== 'remove' && verb !== 'insert') expect(occupants).toHaveLength(1);
  if (isDone) expect(occupants).toHaveLength(verb === 'remove' ? 0 : 1);
  if (occupants.length === 1) expect(await kubelet.exec(pod.container, ['echo', 'here'])).toBe('here\n');
  const { relists } = kubelet;
  await until(async () => kubelet.relists > relists + 1);
  expect(kubelet.relists).toBeGreaterThan(relists + 1);
  expect([kubelet.changes, pod.restarts]).toEqual([[], 0]);
  expect(await kubelet.statusOf(pod.container)).toMatchObject({ state: ContainerState.CONTAINER_RUNNING });
}

describe.each(['agent', 'proxy', 'containerd'] as const)('%s is killed', (service) => {
  test.each(service === 'agent' || ALL ? [...SWAPS, ...OTHERS] : FEW)(
    'in "$phase" of $verb (keeping the state: $keepState)',
    async (what) => {
      await prepareFor(what);
      await expectWhole(what, await harmed(what, () => kill(service)));
    },
  );

  test.each(ALL ? [5, 10, 20, 40, 60, 90, 120, 150, 200, 250] : [150])(
    '%i ms after a swap has begun to change over',
    async (delayMs) => {
      const what: Case = { verb: 'swap', phase: 'change over' };
      await expectWhole(what, await harmed(what, () => kill(service), { delayMs }));
    },
  );
});

test.each(ALL ? SWAPS : FEW.filter(({ verb }) => verb === 'swap'))(
  'the command is killed in "$phase" of $verb: the operation goes on',
  async (what) => {
    await harmed(what, async (cut) => cut.abort());
    await expectWhole(what, true);
    using slots = new Slots(node.criSocket);
    expect((await slots.list())[0]?.history).toMatchObject([{ verb: 'swap', result: 'done' }]);
  },
);

test.each(['prepare', 'change over', 'try'])(
  'kubelet stops the container in "%s" of a swap: it is stopped, and kubelet starts the next',
  async (phase) => {
    const before = pod.container;
    const isDone = await harmed({ verb: 'swap', phase }, () => kubelet.stopContainer(before, 1));
    expect(isDone).toBe(false);
    await until(async () => pod.restarts === 1 && pod.container !== before);
    expect([pod.restarts, pod.container === before]).toEqual([1, false]);
    await until(async () => (await kubelet.statusOf(pod.container))?.state === ContainerState.CONTAINER_RUNNING);
    using cri = new Cri(node.runtimeSocket);
    await until(async () => (await cri.listContainers()).length === 1);
    expect((await cri.listContainers()).map(({ id }) => id)).toEqual([pod.container]);
  },
);

describe('no space is left for slots', () => {
  const folder = '/var/lib/gantry/slots';
  const what = (phase: string): Case => ({ verb: 'swap', phase });
  const shell = (script: string) => labExec(NAME, 'a', ['sh', '-c', script]);
  // From here and at once: a command on the node may take longer than a phase.
  const filler = () => `/proc/${node.pid}/root${folder}/filler`;
  const fill = () => expect(() => writeFileSync(filler(), Buffer.alloc(32_768))).toThrow(/ENOSPC/);

  beforeEach(async () => {
    await shell(`mkdir -p ${folder} && mount -t tmpfs -o size=24k,mode=700 small ${folder}`);
  });
  afterEach(async () => {
    rmSync(filler(), { force: true });
    await kubelet.removePod(pod);
    pod = await kubelet.runPod('crashing', lab.images.busybox, SERVE);
    using slots = new Slots(node.criSocket);
    expect(await slots.list()).toEqual([]);
    await shell(`umount ${folder}`);
  });

  test('before a swap: it is undone at once', async () => {
    fill();
    const retries: string[] = [];
    const request = { target: pod.container, configJson: SECOND };
    const swap = operate(node.agentSocket, 'swap', request, { onRetry: (why) => retries.push(why) });
    await expect(swap).rejects.toMatchObject({ reason: 'NO_SPACE' });
    expect(retries).toEqual([]);
    await expectWhole(what('prepare'), false);
  });

  test.each(['change over', 'try'])('in "%s" of a swap: it is undone as soon as there is some', async (phase) => {
    const retries: string[] = [];
    const harm = async () => {
      fill();
      await until(async () => retries.length > 0, 10_000);
      expect(await kubelet.statusOf(pod.container)).toMatchObject({ state: ContainerState.CONTAINER_RUNNING });
      rmSync(filler());
    };
    // On a busy machine the phase may be over before this has heard of it: then the next swap is harmed.
    let isDone = true;
    for (let attempt = 0; attempt < 3 && isDone; attempt++)
      isDone = await harmed(what(phase), harm, { onRetry: (why) => retries.push(why) });
    expect([isDone, retries[0]]).toEqual([false, expect.stringMatching(/ENOSPC/)]);
    await expectWhole(what(phase), isDone);
  });
});

test('kubelet ends the pod in the middle of a swap: nothing is left', async () => {
  const what: Case = { verb: 'swap', phase: 'change over' };
  const ended = harmed(what, async () => {
    using cri = new Cri(node.criSocket);
    // As kubelet: again, where the runtime is just removing a container of it for the agent.
    let isGone = false;
    const remove = () => cri.removeSandbox(pod.sandbox).then(() => (isGone = true));
    await until(remove);
    expect(isGone).toBe(true);
  });
  expect(await ended).toBe(false);
});

describe('the node loses its power', () => {
  const states: Record<string, () => Promise<unknown>> = {
    'after a swap': () => operate(node.agentSocket, 'swap', { target: pod.container, configJson: SECOND }),
    'with the one before frozen': () =>
      operate(node.agentSocket, 'swap', { target: pod.container, configJson: SECOND, keepState: true }),
    'with an empty slot': () => operate(node.agentSocket, 'remove', { target: pod.container }),
    'with a slot whose container is frozen': () =>
      operate(node.agentSocket, 'remove', { target: pod.container, keepState: true }),
    'with an extra container': () =>
      operate(node.agentSocket, 'insert', {
        target: pod.sandbox,
        name: 'extra',
        image: lab.images.busybox,
        configJson: SECOND,
      }),
  };

  async function reboot(): Promise<void> {
    process.kill(node.pid, 'SIGKILL'); // at once: the command takes its time to start
    lab = await labReboot(NAME, 'a');
    node = nodeNamed(lab, 'a');
  }

  /** Kubelet is another one as well, and knows its pod. */
  async function expectEnded(): Promise<void> {
    await kubelet[Symbol.asyncDispose]();
    kubelet = new Kubelet(node.criSocket, 250);
    kubelet.pods.push(pod);
    const isExited = async () => (await kubelet.statusOf(pod.container))?.state === ContainerState.CONTAINER_EXITED;
    await until(isExited);
    expect(await kubelet.statusOf(pod.container)).toMatchObject({ state: ContainerState.CONTAINER_EXITED });
    await expect(kubelet.exec(pod.container, ['true'])).rejects.toThrow(/not running|exited|stopped|nobody/i);
    await expect(
      operate(node.agentSocket, 'swap', { target: pod.container, configJson: SECOND }),
    ).rejects.toMatchObject({ reason: 'NOT_RUNNING' });
  }

  const few = ['after a swap', 'with a slot whose container is frozen'];
  test.each(Object.entries(states).filter(([name]) => ALL || few.includes(name)))(
    '%s: kubelet sees that it has ended, and clears it away',
    async (_name, prepare) => {
      await prepare();
      await reboot();
      await expectEnded();
    },
  );

  test.each(ALL ? ['prepare', 'change over', 'try'] : ['change over'])('in "%s" of a swap', async (phase) => {
    expect(await harmed({ verb: 'swap', phase }, reboot)).toBe(false);
    await expectEnded();
  });
});
