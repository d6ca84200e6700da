import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import protobuf from 'protobufjs';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import {
  ContainerEventResponse,
  ContainerEventType,
  ContainerState,
  ContainerStatus,
  ContainerStatusResponse,
  Image,
  ListContainersRequest,
  ListContainersResponse,
  ListImagesResponse,
} from '../../gen/cri.ts';
import { PutSlotRequest, Slot, SlotOperation, SlotPhase } from '../../gen/gantry/v1/slots.ts';
import { status } from '../../grpc-status.ts';
import { silentLog } from '../../log.ts';
import type { AnswerRewriter, Decision, HeldCall } from '../intercept/interceptor.ts';
import { ID_FIELDS, METHODS } from '../methods.ts';
import { AS_ATTRIBUTES, AS_CONTAINER, NUMBERS } from './face.ts';
import { SLOT_LABEL } from './label.ts';
import { slotMethods } from './service.ts';
import { SlotTable } from './table.ts';
import { Virtual } from './virtual.ts';

const REPOSITORY = join(import.meta.dirname, '../../..');
const VIRTUAL = 'a'.repeat(64);
const REAL = 'b'.repeat(64);
const HIDDEN = 'c'.repeat(64);
const OTHER = 'd'.repeat(64);
const SANDBOX = 'e'.repeat(64);

const FACE = ContainerStatus.fromPartial({
  id: VIRTUAL,
  metadata: { name: 'main', attempt: 0 },
  state: ContainerState.CONTAINER_RUNNING,
  createdAt: 1_700_000_000_000_000_000n,
  startedAt: 1_700_000_001_000_000_000n,
  image: { image: 'redis:7' },
  imageRef: 'sha256:seven',
  labels: { app: 'redis' },
  annotations: { 'io.kubernetes.container.restartCount': '0' },
  logPath: '/var/log/pods/x/main/0.log',
});
const NOW = ContainerStatus.fromPartial({
  id: REAL,
  metadata: { name: 'main', attempt: 1_073_741_825 },
  state: ContainerState.CONTAINER_RUNNING,
  createdAt: 1_800_000_000_000_000_000n,
  startedAt: 1_800_000_000_000_000_000n,
  image: { image: 'redis:8' },
  imageRef: 'sha256:eight',
  labels: { app: 'redis', [SLOT_LABEL]: VIRTUAL },
});

let folder: string;
let table: SlotTable;
let root: protobuf.Root;

beforeAll(async () => {
  root = new protobuf.Root();
  root.resolvePath = (_origin, target) => target;
  const files = ['.lab/cri-api/plain/api.proto', 'proto/cri/supplement.proto'];
  await root.load(
    files.map((file) => join(REPOSITORY, file)),
    { keepCase: true },
  );
});
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-slots-'));
  table = await SlotTable.open(folder, silentLog);
});
afterEach(() => rm(folder, { recursive: true }));

function slot(fields: Partial<Slot> = {}): Slot {
  return Slot.fromPartial({
    id: VIRTUAL,
    sandboxId: SANDBOX,
    name: 'main',
    occupant: REAL,
    hidden: [HIDDEN],
    face: Buffer.from(ContainerStatus.encode(FACE).finish()),
    ...fields,
  });
}

/** Changes the slot, whatever its revision. */
async function set(fields: Partial<Slot> = {}): Promise<void> {
  const revision = table.slots().find(({ id }) => id === VIRTUAL)?.revision ?? 0;
  await table.put({ ...slot(fields), revision });
}

function call(method: string, deadlineMs = Number.POSITIVE_INFINITY): HeldCall {
  const { service } = METHODS[method] ?? { service: 'RuntimeService' as const };
  return { service, method, deadline: performance.now() + deadlineMs, signal: new AbortController().signal };
}

/** What a request leads to. */
async function decide(method: string, request: Uint8Array, deadlineMs?: number): Promise<Decision> {
  return new Virtual(table).decide(request, call(method, deadlineMs));
}

async function passed(method: string, request: Uint8Array): Promise<{ request: Uint8Array; rewriter: AnswerRewriter }> {
  const decision = await decide(method, request);
  if (decision.kind !== 'pass') throw new Error(`${method} has not been passed on: ${JSON.stringify(decision)}`);
  return { request: decision.request ?? request, rewriter: decision.rewriter ?? {} };
}

async function rewritten(method: string, request: Uint8Array, answer: Uint8Array): Promise<Uint8Array | undefined> {
  const { rewriter } = await passed(method, request);
  const message = rewriter.message === undefined ? answer : await rewriter.message(answer);
  const last = rewriter.end?.();
  return message === undefined && last === undefined
    ? undefined
    : Buffer.concat([message ?? [], last ?? []].map((x) => Buffer.from(x)));
}

const aboutSlot = () => Buffer.concat([Buffer.from([0x0a, 64]), Buffer.from(VIRTUAL)]);
const text = (bytes: Uint8Array | undefined) => Buffer.from(bytes ?? []).toString('latin1');

/** A message with every field set: IDs of containers to `container`, wherever a container's ID can stand. */
function filled(type: protobuf.Type, container: string): Record<string, unknown> {
  const message: Record<string, unknown> = {};
  for (const field of type.fieldsArray) {
    field.resolve();
    const kind = ID_FIELDS[`${type.name}.${field.name}`];
    let value: unknown;
    if (kind === 'container') value = container;
    else if (kind === 'sandbox') value = SANDBOX;
    else if (kind === 'inside') value = field.map ? `{"id":"${container}","path":"/x/${container}/y"}` : container;
    else if (field.resolvedType instanceof protobuf.Type) value = filled(field.resolvedType, container);
    else if (field.resolvedType !== null) value = 0;
    else if (field.type === 'string') value = 'text';
    else if (field.type === 'bytes') value = Buffer.from('bytes');
    else if (field.type === 'bool') value = true;
    else value = 1;
    if (field.map) message[field.name] = { key: value };
    else message[field.name] = field.repeated ? [value] : value;
  }
  return message;
}

function encoded(name: string, container: string): Uint8Array {
  const type = root.lookupType(`runtime.v1.${name}`);
  return type.encode(type.fromObject(filled(type, container))).finish();
}

function typesOf(method: string): { request: string; answer: string } {
  const services = (root.lookup('runtime.v1') as protobuf.Namespace).nestedArray.filter(
    (entry): entry is protobuf.Service => entry instanceof protobuf.Service,
  );
  const found = services.flatMap(({ methodsArray }) => methodsArray).find(({ name }) => name === method);
  return {
    request: found?.requestType.replace('runtime.v1.', '') ?? '',
    answer: found?.responseType.replace('runtime.v1.', '') ?? '',
  };
}

describe('field numbers', () => {
  const numberOf = (name: string) => {
    const [type = '', field = ''] = name.split('.');
    return root.lookupType(`runtime.v1.${type}`).fields[field]?.id;
  };

  test('are those of the upstream definition', () => {
    expect(Object.entries(NUMBERS).map(([name]) => [name, numberOf(name)])).toEqual(Object.entries(NUMBERS));
  });

  test.each([
    ['Container', AS_CONTAINER],
    ['ContainerAttributes', AS_ATTRIBUTES],
  ] as const)('of a status mean the same in %s', (type, numbers) => {
    const fields = root.lookupType('runtime.v1.ContainerStatus').fieldsById;
    const same = Object.keys(numbers).map((id) => [id, numberOf(`${type}.${fields[Number(id)]?.name}`)]);
    expect(Object.fromEntries(same)).toEqual(numbers);
  });
});

describe('every ID of a container, in every method', () => {
  // What they answer are IDs of containers that have just been made.
  const MADE = new Set(['CreateContainer', 'RestorePod']);
  // What of them is seen goes by their filters, of which there are tests below.
  const LISTS = new Set(['ListContainers', 'StreamContainers', 'ListContainerStats', 'StreamContainerStats']);

  test.each(Object.keys(METHODS))('%s: the runtime sees real ones, the client virtual ones', async (method) => {
    await set();
    const virtual = new Virtual(table);
    const { request, answer } = typesOf(method);
    const asked = LISTS.has(method) ? new Uint8Array() : encoded(request, VIRTUAL);
    const answered = encoded(answer, REAL);
    const { service } = METHODS[method] ?? { service: 'RuntimeService' };
    if (!virtual.wants({ service, method })) {
      expect(text(asked)).not.toContain(VIRTUAL);
      expect(text(answered)).not.toContain(REAL);
      return;
    }
    const { request: sent, rewriter } = await passed(method, asked);
    expect(text(sent)).not.toContain(VIRTUAL);
    if (MADE.has(method)) return;
    const got = text(rewriter.message === undefined ? answered : await rewriter.message(answered));
    expect(got).not.toContain(REAL);
    expect(got.includes(VIRTUAL)).toBe(text(answered).includes(REAL));
  });

  test.each(Object.keys(METHODS))('%s: nothing is seen of a hidden one', async (method) => {
    await set();
    const { request, answer } = typesOf(method);
    const { service } = METHODS[method] ?? { service: 'RuntimeService' };
    if (MADE.has(method) || method === 'ContainerStatus' || method === 'ContainerStats') return;
    if (!new Virtual(table).wants({ service, method })) return;
    const { rewriter } = await passed(method, encoded(request, OTHER));
    const got = await rewriter.message?.(encoded(answer, HIDDEN));
    // Texts of the runtime's own are left as they are, but for occupants.
    if (method !== 'PodSandboxStatus' && !method.includes('Metrics')) expect(text(got)).not.toContain(HIDDEN);
  });

  test('the path of every container ID of a request is known', async () => {
    await set();
    for (const method of Object.keys(METHODS)) {
      const asked = encoded(typesOf(method).request, VIRTUAL);
      const { service } = METHODS[method] ?? { service: 'RuntimeService' };
      if (text(asked).includes(VIRTUAL))
        expect([method, new Virtual(table).wants({ service, method })]).toEqual([method, true]);
    }
  });
});

describe('a list', () => {
  const request = (filter?: Parameters<typeof ListContainersRequest.fromPartial>[0]['filter']) =>
    ListContainersRequest.encode(ListContainersRequest.fromPartial({ filter })).finish();
  const item = (id: string, state: ContainerState, labels: Record<string, string> = {}) => ({
    id,
    podSandboxId: SANDBOX,
    state,
    labels,
  });
  const answer = (...containers: ReturnType<typeof item>[]) =>
    ListContainersResponse.encode(ListContainersResponse.fromPartial({ containers })).finish();
  const seen = async (asked: Uint8Array, answered: Uint8Array) =>
    ListContainersResponse.decode(
      (await rewritten('ListContainers', asked, answered)) ?? new Uint8Array(),
    ).containers.map(({ id, state }) => [id[0], state]);
  const { CONTAINER_RUNNING: RUNNING, CONTAINER_EXITED: EXITED } = ContainerState;

  test('shows the slot as it has always been, once, and nothing of those behind it', async () => {
    await set();
    const all = answer(item(HIDDEN, EXITED), item(OTHER, EXITED), item(REAL, RUNNING, { [SLOT_LABEL]: VIRTUAL }));
    const bytes = await rewritten('ListContainers', request(), all);
    const { containers } = ListContainersResponse.decode(bytes ?? new Uint8Array());
    expect(containers.map(({ id }) => id)).toEqual([OTHER, VIRTUAL]);
    expect(containers[1]).toMatchObject({
      podSandboxId: SANDBOX,
      metadata: { name: 'main', attempt: 0 },
      image: { image: 'redis:7' },
      imageRef: 'sha256:seven',
      createdAt: FACE.createdAt,
      labels: FACE.labels,
      annotations: FACE.annotations,
      state: RUNNING,
    });
  });

  test('shows a slot that nobody is in, and one whose occupant came after the runtime had looked', async () => {
    await set({ occupant: '' });
    expect(await seen(request(), answer(item(OTHER, RUNNING)))).toEqual([
      ['d', RUNNING],
      ['a', RUNNING],
    ]);
    await set({ occupant: REAL });
    expect(await seen(request(), answer(item(HIDDEN, RUNNING)))).toEqual([['a', RUNNING]]);
  });

  test('tells the end of an occupant, unless it is being exchanged', async () => {
    await set();
    expect(await seen(request(), answer(item(REAL, EXITED)))).toEqual([['a', EXITED]]);
    for (const phase of [SlotPhase.CHANGING, SlotPhase.TRYING]) {
      await set({ phase });
      expect(await seen(request(), answer(item(REAL, EXITED)))).toEqual([['a', RUNNING]]);
    }
  });

  test('shows nothing of a container that is being made, though its ID is not known yet', async () => {
    await set({
      operation: SlotOperation.fromPartial({ key: 'k', verb: 'swap' }),
    });
    const all = answer(item(REAL, RUNNING), item(OTHER, ContainerState.CONTAINER_CREATED, { [SLOT_LABEL]: VIRTUAL }));
    expect(await seen(request(), all)).toEqual([['a', RUNNING]]);
  });

  test('comes in one message where clients expect one, and in one more where they expect any number', async () => {
    await set({ occupant: '' });
    const { rewriter: unary } = await passed('ListContainers', request());
    expect([text(await unary.message?.(new Uint8Array())).includes(VIRTUAL), unary.end]).toEqual([true, undefined]);
    const { rewriter: stream } = await passed('StreamContainers', request());
    expect(text(await stream.message?.(answer(item(OTHER, RUNNING))))).not.toContain(VIRTUAL);
    expect(text(stream.end?.())).toContain(VIRTUAL);
  });

  test('of one state goes by what the client is shown', async () => {
    await set({ phase: SlotPhase.CHANGING });
    const all = answer(item(REAL, EXITED), item(OTHER, EXITED));
    expect(await seen(request({ state: { state: RUNNING } }), all)).toEqual([['a', RUNNING]]);
    expect(await seen(request({ state: { state: EXITED } }), all)).toEqual([['d', EXITED]]);
  });

  test('of one ID, sandbox or label finds the slot, and only what is wanted', async () => {
    await set({ occupant: '' });
    const all = answer(item(OTHER, RUNNING, { app: 'other' }));
    expect(await seen(request({ id: VIRTUAL }), all)).toEqual([['a', RUNNING]]);
    expect(await seen(request({ id: 'aaaa' }), all)).toEqual([['a', RUNNING]]);
    expect(await seen(request({ id: OTHER }), all)).toEqual([['d', RUNNING]]);
    expect(await seen(request({ podSandboxId: OTHER }), answer())).toEqual([]);
    expect(await seen(request({ labelSelector: { app: 'redis' } }), all)).toEqual([['a', RUNNING]]);
    expect(await seen(request({ labelSelector: { app: 'other' } }), all)).toEqual([['d', RUNNING]]);
    expect(await seen(request({ id: VIRTUAL, labelSelector: { app: 'other' } }), all)).toEqual([]);
  });

  test('of one ID asks the runtime for the sandbox, in which the slot is', async () => {
    await set();
    const { request: sent } = await passed('ListContainers', request({ id: VIRTUAL, podSandboxId: SANDBOX }));
    expect(ListContainersRequest.decode(sent).filter).toMatchObject({ id: '', podSandboxId: SANDBOX });
  });
});

describe('the status of a slot', () => {
  /** By the relay itself. */
  const answered = async (method: string) => {
    const decision = await decide(method, aboutSlot());
    if (decision.kind !== 'answer') return decision;
    for await (const message of decision.messages) return ContainerStatusResponse.decode(message).status;
  };
  const shown = async (real: Partial<typeof NOW> = {}) => {
    const answer = ContainerStatusResponse.encode({ status: { ...NOW, ...real }, info: {} } as never).finish();
    const bytes = await rewritten('ContainerStatus', aboutSlot(), answer);
    return ContainerStatusResponse.decode(bytes ?? new Uint8Array()).status;
  };

  test('is the face, and of the occupant what it does and how it ended', async () => {
    await set();
    expect(await shown()).toMatchObject({ ...FACE, state: ContainerState.CONTAINER_RUNNING });
    const ended = {
      state: ContainerState.CONTAINER_EXITED,
      exitCode: 3,
      reason: 'Error',
      message: 'm',
      finishedAt: 1_900_000_000_000_000_000n,
    };
    expect(await shown(ended)).toMatchObject({ ...FACE, ...ended });
    // While it is being exchanged there is no need to ask.
    await set({ phase: SlotPhase.TRYING });
    expect(await answered('ContainerStatus')).toMatchObject({ ...FACE, exitCode: 0, finishedAt: 0n });
  });

  test('of an empty one is that of a container that runs, until a client stops it; then it can be removed', async () => {
    await set({ occupant: '', hidden: [] });
    const ask = () => answered('ContainerStatus');
    expect(await ask()).toMatchObject({ ...FACE, state: ContainerState.CONTAINER_RUNNING });
    expect(await decide('ExecSync', aboutSlot())).toMatchObject({ kind: 'fail', code: status.FAILED_PRECONDITION });
    expect(await decide('StopContainer', aboutSlot())).toMatchObject({ kind: 'answer' });
    expect(await ask()).toMatchObject({
      ...FACE,
      state: ContainerState.CONTAINER_EXITED,
      exitCode: 137,
      reason: 'Error',
      finishedAt: expect.any(BigInt),
    });
    expect(await decide('RemoveContainer', aboutSlot())).toMatchObject({ kind: 'answer' });
    expect(table.isEmpty).toBe(true);
  });

  test('a slot whose occupant a client removes is over when the client hears of it', async () => {
    await set({ hidden: [] });
    await rewritten('RemoveContainer', aboutSlot(), new Uint8Array());
    expect(table.isEmpty).toBe(true);
  });

  test('and those behind it are not seen until the agent has removed them', async () => {
    await set();
    await rewritten('RemoveContainer', aboutSlot(), new Uint8Array());
    expect([table.face(VIRTUAL), table.role(HIDDEN)?.kind]).toEqual([undefined, 'hidden']);
    expect(table.slots()).toMatchObject([{ extra: true, occupant: '', hidden: [HIDDEN] }]);
  });

  test('the end of a sandbox is that of its slots', async () => {
    await set({ occupant: '' });
    const aboutSandbox = Buffer.concat([Buffer.from([0x0a, 64]), Buffer.from(SANDBOX)]);
    await rewritten('StopPodSandbox', aboutSandbox, new Uint8Array());
    expect(table.slots()).toMatchObject([{ exit: { code: 137 } }]);
    await rewritten('RemovePodSandbox', aboutSandbox, new Uint8Array());
    expect(table.isEmpty).toBe(true);
  });

  test('a stop while somebody works on the slot is in its record, and reaches the occupant', async () => {
    await set({ operation: SlotOperation.fromPartial({ key: 'k', verb: 'swap' }) });
    const { request } = await passed('StopContainer', aboutSlot());
    expect(text(request)).toContain(REAL);
    expect(table.slots()).toMatchObject([{ occupant: REAL, exit: { code: 137 } }]);
  });

  test('errors name the container as the client does', async () => {
    await set();
    const { rewriter } = await passed('StopContainer', aboutSlot());
    expect(rewriter.status?.({ code: status.UNKNOWN, message: `no task ${REAL}` }).message).toBe(`no task ${VIRTUAL}`);
  });
});

describe('events', () => {
  const event = (containerId: string, statuses: ContainerStatus[] = []) =>
    ContainerEventResponse.encode({
      containerId,
      containerEventType: ContainerEventType.CONTAINER_STOPPED_EVENT,
      createdAt: 1n,
      podSandboxStatus: undefined,
      containersStatuses: statuses,
    }).finish();
  const seen = async (bytes: Uint8Array) => {
    const got = await rewritten('GetContainerEvents', new Uint8Array(), bytes);
    return got && ContainerEventResponse.decode(got);
  };

  test('cross as the same bytes while there is no slot, also on a stream that was opened then', async () => {
    expect(new Virtual(table).wants({ service: 'RuntimeService', method: 'GetContainerEvents' })).toBe(true);
    expect(new Virtual(table).wants({ service: 'RuntimeService', method: 'ListContainers' })).toBe(false);
    const { rewriter } = await passed('GetContainerEvents', new Uint8Array());
    const bytes = event(REAL, [NOW]);
    expect(rewriter.message?.(bytes)).toBe(bytes);
    await set();
    const changed = rewriter.message?.(bytes) as Uint8Array;
    expect(ContainerEventResponse.decode(changed)).toMatchObject({
      containerId: VIRTUAL,
      containersStatuses: [{ id: VIRTUAL, imageRef: 'sha256:seven' }],
    });
  });

  test('of hidden ones, of those being exchanged and of what is gone are not seen', async () => {
    await set();
    expect(await seen(event(HIDDEN))).toBeUndefined();
    expect(await seen(event(VIRTUAL))).toBeUndefined(); // the first one, long after it has left
    await set({ hidden: [] });
    expect(await seen(event(HIDDEN))).toBeUndefined();
    await set({ phase: SlotPhase.CHANGING });
    expect(await seen(event(REAL))).toBeUndefined();
    expect(await seen(event(OTHER, [NOW]))).toMatchObject({
      containerId: OTHER,
      containersStatuses: [{ id: VIRTUAL }],
    });
  });

  test('of a container that is being made are not seen', async () => {
    await set({
      occupant: '',
      operation: SlotOperation.fromPartial({ key: 'k', verb: 'insert' }),
    });
    expect(await seen(event(REAL, [NOW]))).toBeUndefined();
    expect(await seen(event(REAL))).toBeUndefined(); // nor that it is gone again
  });
});

describe('while a slot is between two occupants', () => {
  test('calls wait, and go to the next one', async () => {
    await set({ phase: SlotPhase.CHANGING });
    const waiting = passed('ExecSync', aboutSlot());
    await set({ occupant: OTHER, hidden: [REAL], phase: SlotPhase.TRYING });
    expect(text((await waiting).request)).toContain(OTHER);
  });

  test('a call whose deadline comes first gets an answer that is no answer of the container', async () => {
    await set({ phase: SlotPhase.CHANGING });
    expect(await decide('ExecSync', aboutSlot(), 120)).toMatchObject({ kind: 'fail', code: status.UNAVAILABLE });
  });
});

test('images that are needed are pinned, others are as they were', async () => {
  await set({ images: ['sha256:eight'] });
  const images = ['sha256:seven', 'sha256:eight'].map((id) => Image.fromPartial({ id, pinned: false, size: 7n }));
  const listed = await rewritten('ListImages', new Uint8Array(), ListImagesResponse.encode({ images }).finish());
  const pinned = ListImagesResponse.decode(listed ?? new Uint8Array()).images.map((one) => [
    one.id,
    one.pinned,
    one.size,
  ]);
  expect(pinned).toEqual([
    ['sha256:seven', false, 7n],
    ['sha256:eight', true, 7n],
  ]);
});

describe('a call that is on its way when its container leaves', () => {
  const run = (exitCode: number) => Buffer.from([0x18, exitCode]);

  test('does not tell of the end of what it ran, unless that ended well', async () => {
    await set();
    const { rewriter } = await passed('ExecSync', aboutSlot());
    expect(await rewriter.message?.(run(137 - 64))).toEqual(run(137 - 64));
    await set({ phase: SlotPhase.CHANGING });
    expect(() => rewriter.message?.(run(137 - 64))).toThrow('is being exchanged');
    expect(await rewriter.message?.(run(0))).toEqual(run(0));
  });

  test('is not answered that there is no such container', async () => {
    await set();
    const { rewriter } = await passed('ContainerStatus', aboutSlot());
    const none = { code: status.NOT_FOUND, message: `no container ${REAL}` };
    expect(rewriter.status?.(none)).toEqual({ code: status.NOT_FOUND, message: `no container ${VIRTUAL}` });
    await set({ occupant: OTHER });
    expect(rewriter.status?.(none)).toMatchObject({ code: status.UNAVAILABLE });
  });

  test('a probe waits for its own time only, whatever the deadline of its call', async () => {
    await set({ phase: SlotPhase.CHANGING });
    const began = performance.now();
    const probe = Buffer.concat([aboutSlot(), Buffer.from([0x18, 1])]);
    expect(await decide('ExecSync', probe, 120_000)).toMatchObject({ kind: 'fail', code: status.UNAVAILABLE });
    expect(performance.now() - began).toBeLessThan(60_000);
  });
});

describe('the table', () => {
  test('is what it was after a restart, and sets aside what it cannot read', async () => {
    await set({ phase: SlotPhase.TRYING });
    await writeFile(join(folder, `${OTHER}.slot`), 'no slot');
    await writeFile(join(folder, `${OTHER}.slot.new`), 'half');
    const again = await SlotTable.open(folder, silentLog);
    expect(again.slots()).toEqual(table.slots().map((one) => Slot.decode(Slot.encode(one).finish())));
    expect((await readdir(folder)).toSorted()).toEqual([`${VIRTUAL}.slot`, `${OTHER}.slot.bad`].toSorted());
  });

  test('shows nothing of a change that could not be made durable', async () => {
    await set();
    const before = table.slots();
    await rm(folder, { recursive: true });
    await writeFile(folder, 'no folder');
    await expect(set({ occupant: '' })).rejects.toMatchObject({ code: 'EEXIST' });
    expect(table.slots()).toEqual(before);
  });

  test('takes a change only from who has seen the last one, and a container only once', async () => {
    await set();
    await expect(table.put(slot())).rejects.toMatchObject({ reason: 'CONFLICT' });
    await expect(table.put(slot({ revision: 7 }))).rejects.toMatchObject({ reason: 'CONFLICT' });
    await expect(table.remove(VIRTUAL, 7)).rejects.toMatchObject({ reason: 'CONFLICT' });
    await expect(table.put(slot({ id: OTHER, occupant: HIDDEN, hidden: [] }))).rejects.toMatchObject({
      reason: 'CONFLICT',
    });
    await expect(table.put(slot({ id: '../x' }))).rejects.toMatchObject({ reason: 'USAGE' });
    await Promise.all([1, 2].map(() => table.put({ ...slot(), revision: 1 }).catch(() => undefined)));
    expect(table.slots().map(({ revision }) => revision)).toEqual([2]);
  });

  test('lets a container be seen again when its slot ends before it has left', async () => {
    await set({ occupant: VIRTUAL, hidden: [] });
    await table.remove(VIRTUAL);
    expect(table.role(VIRTUAL)).toBeUndefined();
  });

  test('a slot is between two occupants only when what was run inside the one is over', async () => {
    await set();
    const over = Promise.withResolvers<void>();
    const waited: string[] = [];
    const runsOver = () => {
      waited.push('waited');
      return over.promise;
    };
    const methods = new Map(slotMethods(table, { readsOver: () => Promise.resolve(), runsOver }));
    const put = async (fields: Partial<Slot>) => {
      const [now] = table.slots();
      const request = PutSlotRequest.encode({ slot: { ...slot(fields), revision: now?.revision ?? 0 } }).finish();
      await methods.get('/gantry.v1.Slots/Put')?.(request, new AbortController().signal)[Symbol.asyncIterator]().next();
    };
    const changing = put({ phase: SlotPhase.CHANGING }).then(() => waited.push('changing'));
    await new Promise((resolve) => setTimeout(resolve, 30));
    // New ones wait already.
    expect([waited, table.slots()[0]?.phase]).toEqual([['waited'], SlotPhase.CHANGING]);
    over.resolve();
    await changing;
    await put({ phase: SlotPhase.CHANGING, hidden: [] });
    await put({ phase: SlotPhase.TRYING });
    expect(waited).toEqual(['waited', 'changing']);
  });

  test('the first slot is in force only when the calls before it are over; if they do not end, there is none', async () => {
    const put = (readsOver: () => Promise<void>) => {
      const methods = new Map(slotMethods(table, { readsOver, runsOver: () => Promise.resolve() }));
      const one = methods.get('/gantry.v1.Slots/Put')?.(
        PutSlotRequest.encode({ slot: slot() }).finish(),
        new AbortController().signal,
      );
      return one?.[Symbol.asyncIterator]().next();
    };
    await expect(put(() => Promise.reject(new Error('too late')))).rejects.toMatchObject({
      reason: 'RUNTIME_UNAVAILABLE',
    });
    expect(table.isEmpty).toBe(true);
    const over = Promise.withResolvers<void>();
    let done = false;
    const putting = put(() => over.promise)?.then(() => {
      done = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect([table.isEmpty, done]).toEqual([false, false]);
    over.resolve();
    await putting;
  });
});
