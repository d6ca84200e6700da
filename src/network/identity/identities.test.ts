import { mkdtempDisposable, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { expect, it, vi } from 'vitest';
import type { Log } from '../../log.ts';
import { inputOf } from './exec.ts';
import { Identities, keyOf } from './identities.ts';
import type { MovedPod, Provider } from './provider.ts';

const silent = () => undefined;
const log = { trace: silent, debug: silent, info: silent, warn: silent, error: silent } as unknown as Log;

const pod = {
  operation: '0123456789abcdef',
  name: 'redis',
  namespace: 'default',
  uid: 'u-1',
  sandbox: 'sandbox-1',
  netns: '/proc/7/ns/net',
  addresses: [{ family: 'inet' as const, local: '10.1.2.5', prefixLength: 24 }],
  peer: 'a',
};
const key = keyOf(pod);
const quiet = { readySandboxes: async () => new Set(['sandbox-1']), ask: async () => [key] };

class Recorder implements Provider {
  lasts = true;
  readonly calls: string[] = [];
  readonly pods: MovedPod[] = [];
  failures = 0;

  takeOver = (moved: MovedPod) => this.#note('take-over', moved);
  leave = (moved: MovedPod) => this.#note('leave', moved);
  withdraw = (moved: MovedPod) => this.#note('withdraw', moved);

  async #note(verb: string, moved: MovedPod): Promise<void> {
    this.calls.push(`${verb} ${moved.peer} from "${moved.from}"`);
    this.pods.push(moved);
    if (this.failures-- > 0) throw new Error('not yet');
  }
}

const temporary = () => mkdtempDisposable(`${tmpdir()}/identities-`);

it('knows where packets come from through all moves', async () => {
  await using folder = await temporary();
  const provider = new Recorder();
  const identities = await Identities.open(folder.path, provider, log);
  await identities.takeOver({ ...pod, peer: 'a' });
  await identities.leave({ ...pod, peer: 'c' });
  await identities.takeOver({ ...pod, peer: 'c' });
  await identities.leave({ ...pod, peer: 'a' });
  expect(provider.calls).toEqual([
    'take-over a from "a"',
    'leave c from "a"',
    'take-over c from "a"',
    'leave a from "a"',
  ]);
  const home = new Recorder();
  await using other = await temporary();
  const atHome = await Identities.open(other.path, home, log);
  await atHome.leave({ ...pod, peer: 'b' });
  await atHome.takeOver({ ...pod, peer: 'b' });
  expect(home.calls).toEqual(['leave b from ""', 'take-over b from ""']);
});

it("does a pod's part again after a restart, and without a path that may mean another process", async () => {
  await using folder = await temporary();
  const before = await Identities.open(folder.path, new Recorder(), log);
  await before.leave({ ...pod, peer: 'b' });
  const provider = new Recorder();
  const after = await Identities.open(folder.path, provider, log);
  await after.round(quiet, true);
  await after.round(quiet, true);
  expect(provider.calls).toEqual(['leave b from ""']);
  expect(provider.pods[0]).toMatchObject({ netns: '', addresses: pod.addresses });
});

it('tries again what has failed, after a while, and does not fail itself', async () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  try {
    await using folder = await temporary();
    const provider = new Recorder();
    provider.failures = 2;
    const identities = await Identities.open(folder.path, provider, log);
    await identities.takeOver(pod);
    await identities.round(quiet, false);
    expect(provider.calls).toHaveLength(1);
    for (const expected of [2, 2, 3, 3]) {
      vi.advanceTimersByTime(1100);
      await identities.round(quiet, false);
      expect(provider.calls).toHaveLength(expected);
    }
  } finally {
    vi.useRealTimers();
  }
});

it('withdraws a pod that is here once its sandbox was missing twice', async () => {
  await using folder = await temporary();
  const provider = new Recorder();
  const identities = await Identities.open(folder.path, provider, log);
  await identities.takeOver(pod);
  const gone = { ...quiet, readySandboxes: async () => new Set<string>() };
  await identities.round(gone, false);
  await identities.round(quiet, false);
  await identities.round(gone, false);
  expect(identities.held([key, 'another'])).toEqual([key]);
  await identities.round(gone, false);
  expect(provider.calls).toEqual(['take-over a from "a"', 'withdraw a from "a"']);
  expect(identities.held([key])).toEqual([]);
  expect(await readdir(folder.path)).toEqual([]);
});

it('withdraws a pod that is away when its peer knows it no more, and not when the peer cannot be asked', async () => {
  await using folder = await temporary();
  const provider = new Recorder();
  const identities = await Identities.open(folder.path, provider, log);
  await identities.leave({ ...pod, peer: 'b' });
  const unreachable = vi.fn(() => Promise.reject(new Error('no route')));
  await identities.round({ ...quiet, ask: unreachable }, true);
  expect(unreachable).toHaveBeenCalledWith('b', [key]);
  await identities.round(quiet, true);
  await identities.round({ ...quiet, ask: async () => [] }, false);
  expect(identities.held([key])).toEqual([key]);
  await identities.round({ ...quiet, ask: async () => [] }, true);
  expect(provider.calls).toEqual(['leave b from ""', 'withdraw b from ""']);
  expect(await readdir(folder.path)).toEqual([]);
});

it('keeps nothing where nothing lasts', async () => {
  await using folder = await temporary();
  const provider = new Recorder();
  provider.lasts = false;
  const identities = await Identities.open(folder.path, provider, log);
  await identities.takeOver(pod);
  await identities.round(quiet, true);
  expect(provider.calls).toEqual(['take-over a from "a"']);
  expect(await readdir(folder.path)).toEqual([]);
});

it('tells a program what it needs', () => {
  expect(inputOf('leave', 'here', { ...pod, peer: 'b', from: '' })).toEqual({
    version: 1,
    verb: 'leave',
    node: 'here',
    peer: 'b',
    operation: '0123456789abcdef',
    pod: { name: 'redis', namespace: 'default', uid: 'u-1' },
    sandbox: 'sandbox-1',
    netns: '/proc/7/ns/net',
    addresses: [{ family: 'inet', address: '10.1.2.5', prefixLength: 24 }],
  });
});
