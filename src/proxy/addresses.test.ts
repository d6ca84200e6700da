import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import protobuf from 'protobufjs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  ContainerEventResponse,
  PodSandboxNetworkStatus,
  PodSandboxStatus,
  PodSandboxStatusRequest,
  PodSandboxStatusResponse,
} from '../gen/cri.ts';
import type { Address } from '../network/address.ts';
import { MovedAddresses } from '../network/moved.ts';
import { Addresses } from './addresses.ts';
import type { Decision, HeldCall } from './intercept/interceptor.ts';
import { METHODS } from './methods.ts';
import { lengthField } from './slots/edit.ts';

const MOVED = 'a'.repeat(64);
const OTHER = 'b'.repeat(64);
const SERVICE = 'RuntimeService' as const;
/** A field that no version knows. */
const UNKNOWN = lengthField(999, 'of a runtime to come');

let folder: string;
let moved: MovedAddresses;
let addresses: Addresses;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-moved-'));
  moved = new MovedAddresses(folder);
  addresses = new Addresses(moved);
});
afterEach(() => rm(folder, { recursive: true }));

function address(local: string): Address {
  return { family: local.includes(':') ? 'inet6' : 'inet', local, prefixLength: 24 };
}

function has(sandbox: string, ...locals: string[]): Promise<void> {
  return moved.write(sandbox, locals.map(address));
}

function decide(method: string, id = ''): Decision {
  const call: HeldCall = { service: SERVICE, method, deadline: Infinity, signal: new AbortController().signal };
  return addresses.decide(PodSandboxStatusRequest.encode({ podSandboxId: id, verbose: true }).finish(), call);
}

async function rewritten(method: string, id: string, answer: Uint8Array): Promise<Uint8Array | undefined> {
  const decision = decide(method, id);
  return decision.kind === 'pass' ? decision.rewriter?.message?.(answer) : undefined;
}

/** PodSandboxStatus with a network, in which and beside which are fields that nobody knows. */
function statusOf(id: string, ip: string, ...additional: string[]): Uint8Array {
  const network = PodSandboxNetworkStatus.encode(
    PodSandboxNetworkStatus.fromPartial({ ip, additionalIps: additional.map((one) => ({ ip: one })) }),
  ).finish();
  const status = PodSandboxStatus.encode(PodSandboxStatus.fromPartial({ id, labels: { app: 'redis' } })).finish();
  return Buffer.concat([status, lengthField(5, Buffer.concat([UNKNOWN, network])), UNKNOWN]);
}

/** What a client of the CRI reads. */
function shown({ network }: PodSandboxStatus): string[] {
  return [network?.ip ?? '', ...(network?.additionalIps ?? []).map(({ ip }) => ip)];
}

async function answered(ip: string, ...additional: string[]): Promise<string[]> {
  const answer = lengthField(1, statusOf(MOVED, ip, ...additional));
  const { status } = PodSandboxStatusResponse.decode((await rewritten('PodSandboxStatus', MOVED, answer)) ?? answer);
  return shown(status as PodSandboxStatus);
}

describe('a sandbox that has come with its addresses', () => {
  test.each<[why: string, brought: string[], runtime: string[], shown: string[]]>([
    ['one', ['10.1.1.5'], ['10.2.1.7'], ['10.1.1.5']],
    ['one of each family', ['10.1.1.5', 'fd00::5'], ['10.2.1.7', 'fd00::7'], ['10.1.1.5', 'fd00::5']],
    [
      'with IPv6 first, as the runtime has it',
      ['10.1.1.5', 'fd00::5'],
      ['fd00::7', '10.2.1.7'],
      ['fd00::5', '10.1.1.5'],
    ],
    ['more families than the runtime has', ['10.1.1.5', 'fd00::5'], ['10.2.1.7'], ['10.1.1.5', 'fd00::5']],
    ['fewer families than the runtime has', ['10.1.1.5'], ['10.2.1.7', 'fd00::7'], ['10.1.1.5']],
    ['with some of its own', ['10.1.1.5', '10.9.9.9', 'fd00::5'], ['10.2.1.7', 'fd00::7'], ['10.1.1.5', 'fd00::5']],
    ['of a runtime that has two', ['10.1.1.5', '10.3.1.5'], ['10.2.1.7', '10.4.1.7'], ['10.1.1.5', '10.3.1.5']],
  ])('shows them: %s', async (_, brought, runtime, expected) => {
    await has(MOVED, ...brought);
    expect(await answered(...(runtime as [string, ...string[]]))).toEqual(expected);
  });

  test('has none when its network is gone', async () => {
    await has(MOVED, '10.1.1.5');
    expect(await answered('')).toEqual(['']);
  });

  test('is otherwise told of as the runtime does, also what nobody knows', async () => {
    await has(MOVED, '10.1.1.5');
    const rest = Buffer.concat([lengthField(2, lengthField(1, 'info')), UNKNOWN]);
    const got = await rewritten(
      'PodSandboxStatus',
      MOVED,
      Buffer.concat([lengthField(1, statusOf(MOVED, '10.2.1.7')), rest]),
    );
    const network = Buffer.concat([
      PodSandboxNetworkStatus.encode(PodSandboxNetworkStatus.fromPartial({ ip: '10.1.1.5' })).finish(),
      UNKNOWN,
    ]);
    const status = PodSandboxStatus.encode(
      PodSandboxStatus.fromPartial({ id: MOVED, labels: { app: 'redis' } }),
    ).finish();
    const wanted = Buffer.concat([status, lengthField(5, network), UNKNOWN]);
    expect(got).toEqual(Buffer.concat([lengthField(1, wanted), rest]));
  });

  test('is found by the beginning of its ID, too', async () => {
    await has(MOVED, '10.1.1.5');
    const answer = lengthField(1, statusOf(MOVED, '10.2.1.7'));
    const got = await rewritten('PodSandboxStatus', MOVED.slice(0, 13), answer);
    expect(shown(PodSandboxStatusResponse.decode(got ?? answer).status as PodSandboxStatus)).toEqual(['10.1.1.5']);
  });

  test('has them in events, of a stream that began before', async () => {
    const event = (id: string) =>
      Buffer.concat([
        ContainerEventResponse.encode(ContainerEventResponse.fromPartial({ containerId: OTHER })).finish(),
        lengthField(4, statusOf(id, '10.2.1.7')),
      ]);
    const decision = decide('GetContainerEvents');
    const stream = decision.kind === 'pass' ? decision.rewriter : undefined;
    expect(await stream?.message?.(event(MOVED))).toEqual(event(MOVED));
    await has(MOVED, '10.1.1.5');
    const got = await stream?.message?.(event(MOVED));
    expect(shown(ContainerEventResponse.decode(got as Uint8Array).podSandboxStatus as PodSandboxStatus)).toEqual([
      '10.1.1.5',
    ]);
    expect(await stream?.message?.(event(OTHER))).toEqual(event(OTHER));
  });
});

describe('what is passed on untouched', () => {
  test('is every call, but event streams, while no sandbox has come', () => {
    const wanted = Object.entries(METHODS).filter(([method, { service }]) => addresses.wants({ service, method }));
    expect(wanted.map(([method]) => method)).toEqual(['GetContainerEvents']);
  });

  test('is the status of every other sandbox', async () => {
    await has(MOVED, '10.1.1.5');
    expect(addresses.wants({ service: SERVICE, method: 'PodSandboxStatus' })).toBe(true);
    expect(decide('PodSandboxStatus', OTHER)).toEqual({ kind: 'pass' });
  });

  test('is that of one whose file nobody can read', async () => {
    await has(MOVED, '10.1.1.5');
    await writeFile(join(folder, 'moved', `${MOVED}.json`), '{"version":2}');
    expect(await answered('10.2.1.7')).toEqual(['10.2.1.7']);
  });
});

test('sandboxes that are no more are forgotten, and nobody is asked while there are none', async () => {
  const asked: string[] = [];
  const list = async () => {
    asked.push('the runtime');
    return new Set([MOVED]);
  };
  await moved.sweep(list);
  expect(asked).toEqual([]);
  await has(MOVED, '10.1.1.5');
  await has(OTHER, '10.1.1.6');
  await moved.sweep(list);
  expect(await readdir(join(folder, 'moved'))).toEqual([`${MOVED}.json`]);
});

test('no other answer of the CRI has the network of a sandbox', async () => {
  const root = new protobuf.Root();
  await root.load(join(import.meta.dirname, '../../.lab/cri-api/plain/api.proto'), { keepCase: true });
  const reaches = (type: protobuf.Type, seen = new Set<protobuf.Type>()): boolean => {
    if (type.name === 'PodSandboxNetworkStatus') return true;
    if (seen.has(type)) return false;
    seen.add(type);
    return type.fieldsArray.some((field) => {
      field.resolve();
      return field.resolvedType instanceof protobuf.Type && reaches(field.resolvedType, seen);
    });
  };
  const { methods } = root.lookupService('runtime.v1.RuntimeService');
  const found = Object.values(methods).filter(({ responseType }) =>
    reaches(root.lookupType(`runtime.v1.${responseType}`)),
  );
  expect(found.map(({ name }) => name).sort()).toEqual(['GetContainerEvents', 'PodSandboxStatus']);
});
