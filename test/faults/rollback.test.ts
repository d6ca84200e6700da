import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Result } from '../../src/gen/gantry/v1/agent.ts';
import { RedisConnection } from '../redis.ts';
import { toldAddresses } from '../scenario.ts';
import { type Served, until, World } from './world.ts';

/*
 * A pod that has moved can be had back as it was, for as long as its state is kept; its address is kept until it is gone.
 */

const RETAINED = '/var/lib/gantry/retained';
const POOL = '/var/lib/cni/networks/gantry';

let world: World;
let served: Served;

beforeAll(async () => {
  world = await World.up('t-rollback');
});
afterAll(() => world?.down());
afterEach(async () => {
  await served?.counter.stop(0);
  await world.removePods();
});

/** Moves a Redis from a to b, and changes it there. @returns the migration's ID */
async function moved(): Promise<string> {
  served = await world.serveRedis({ mebibytes: 8 });
  await tell(served, 'SET', 'where', 'a');
  const before = new Set(await migrations());
  const { exitCode, stderr } = await world.gantry(world.a, 'migrate', served.pod.sandbox, '--to', 'b');
  expect(exitCode, stderr).toBe(0);
  const [id = '', ...others] = (await migrations()).filter((one) => !before.has(one));
  expect(others).toEqual([]);
  await tell(served, 'SET', 'where', 'b');
  return id;
}

async function tell({ pod }: Served, ...command: string[]) {
  using redis = await RedisConnection.open(pod.address);
  return String(await redis.send(...command));
}

async function migrations(): Promise<string[]> {
  const names = await readdir(world.path(world.a, '/var/lib/gantry/migrations'));
  return names.filter((name) => name.endsWith('.source.json')).map((name) => name.split('.')[0] ?? '');
}

async function stateOf(id: string): Promise<string> {
  const file = world.path(world.a, `/var/lib/gantry/migrations/${id}.source.json`);
  return readFile(file, 'utf8').then(
    (text) => (JSON.parse(text) as { state: string }).state,
    () => '',
  );
}

async function ownerOf(address: string): Promise<string> {
  const text = await readFile(world.path(world.a, `${POOL}/${address}`), 'utf8').catch(() => '');
  return text.split(/\s/)[0] ?? '';
}

const retained = () => readdir(world.path(world.a, RETAINED)).catch(() => []);

test('what has moved comes back as it was, with its address, and nothing of it is left elsewhere', async () => {
  const id = await moved();
  expect(await stateOf(id)).toBe('retained');
  expect(await ownerOf(served.pod.address)).toBe(`gantry-${id}`);
  expect((await stat(world.path(world.a, `${RETAINED}/${id}.tar`))).mode & 0o777).toBe(0o600);

  const { exitCode, stderr, stdout } = await world.gantry(world.a, 'rollback', id);

  expect(exitCode, stderr).toBe(0);
  expect(await served.places()).toEqual(['a']);
  const { sandboxId } = JSON.parse(stdout) as Result;
  expect(await toldAddresses(world.a.criSocket, sandboxId)).toEqual([served.pod.address]);
  await until('it answers', async () => (await tell(served, 'GET', 'where').catch(() => '')) === 'a');
  await world.expectNothingLeft();
  expect(await retained()).toEqual([]);
  expect(await stateOf(id)).toBe('');
  expect(await readdir(world.path(world.b, '/var/lib/gantry/migrations'))).toEqual([]);
  expect(await ownerOf(served.pod.address)).toMatch(/^[0-9a-f]{64}$/);
  for (const node of world.nodes) {
    const shown = await world.gantry(node, 'migrations', 'show', id);
    expect(JSON.parse(shown.stdout)).toMatchObject({ id, state: 'rolled-back' });
  }
});

test('after gantry commit there is no way back, and the address is kept until the pod is gone', async () => {
  const id = await moved();
  expect((await world.gantry(world.a, 'commit', id)).exitCode).toBe(0);
  expect(await retained()).toEqual([]);
  expect(await stateOf(id)).toBe('reserved');
  const { failure } = await world.gantry(world.a, 'rollback', id);
  expect(failure?.reason).toBe('CONFLICT');
  expect(await served.places()).toEqual(['b']);
  expect(await ownerOf(served.pod.address)).toBe(`gantry-${id}`);

  await world.removePods();

  await until('the address is free', async () => (await ownerOf(served.pod.address)) === '', 30_000);
  await until('nobody speaks of it', async () => (await stateOf(id)) === '', 30_000);
  expect(await readdir(world.path(world.b, '/var/lib/gantry/migrations'))).toEqual([]);
});

test('a state that finds no room is not kept, and the pod moves all the same', async () => {
  await using _small = await world.smallFolder(world.a, RETAINED, 1);
  const id = await moved();
  expect(await served.places()).toEqual(['b']);
  expect(await retained()).toEqual([]);
  await until('only the address is kept', async () => (await stateOf(id)) === 'reserved', 30_000);
  expect(await ownerOf(served.pod.address)).toBe(`gantry-${id}`);
  const { failure } = await world.gantry(world.a, 'rollback', id);
  expect(failure?.reason).toBe('CONFLICT');
});

test('gantry release frees the address of a pod that is lost with its node', async () => {
  const id = await moved();
  {
    await using _lost = await world.without(world.b, 'agent');
    const { exitCode, stderr } = await world.gantry(world.a, 'release', id);
    expect(exitCode, stderr).toBe(0);
    expect(await ownerOf(served.pod.address)).toBe('');
    expect(await retained()).toEqual([]);
    expect(await stateOf(id)).toBe('');
  }
});

test('one that has moved on is not rolled back', async () => {
  const id = await moved();
  using redis = await RedisConnection.open(served.pod.address);
  expect((await world.gantry(world.b, 'migrate', served.pod.name, '--to', 'a')).exitCode).toBe(0);

  const { failure } = await world.gantry(world.a, 'rollback', id);

  expect(failure?.reason).toBe('CONFLICT');
  expect(await served.places()).toEqual(['a']);
  expect(String(await redis.send('GET', 'where'))).toBe('b');
  expect(await stateOf(id)).toBe('retained');
});

test('a state whose time is over is not kept, and there is no way back', async () => {
  await using _short = await world.configure(world.a, { retention: { hours: 1 / 3600, lookSeconds: 0.2 } });
  const id = await moved();
  await until('its time is over', async () => (await stateOf(id)) === 'reserved', 30_000);
  await expectNoWayBack(id);
  expect(await retained()).not.toContain(`${id}.tar`);
});

test('when states are larger than there is room for, the oldest goes', async () => {
  // Room for one of about 14 MiB.
  await using _small = await world.configure(world.a, { retention: { maxGiB: 20 / 1024, lookSeconds: 0.2 } });
  const oldest = await moved();
  expect(await stateOf(oldest)).toBe('retained');
  const { counter } = served;
  const id = await moved();
  await until('the oldest has gone', async () => (await stateOf(oldest)) === 'reserved', 30_000);
  await counter.stop(0);

  await expectNoWayBack(oldest);
  expect(await retained()).toEqual([`${id}.tar`]);
  expect((await world.gantry(world.a, 'rollback', id)).exitCode).toBe(0);
  expect(await served.places()).toEqual(['a']);
  expect(await tell(served, 'GET', 'where')).toBe('a');
});

test('an encrypted state: nothing is ended without its key, and with it the pod comes back', async () => {
  const identity = await generateIdentity();
  const folder = await mkdtemp(join(tmpdir(), 'gantry-key-'));
  const [key, other] = [join(folder, 'key'), join(folder, 'other')];
  await writeFile(key, `# of this test\n${identity}\n`);
  await writeFile(other, await generateIdentity());
  try {
    const recipients = [await identityToRecipient(identity)];
    await using _encrypted = await world.configure(world.a, { retention: { recipients } });
    const id = await moved();
    const archive = await readFile(world.path(world.a, `${RETAINED}/${id}.tar`));
    expect(archive.toString('latin1', 0, 21)).toBe('age-encryption.org/v1');
    for (const keys of [[], ['--identity', other]]) {
      const { failure } = await world.gantry(world.a, 'rollback', id, ...keys);
      expect(failure).toMatchObject({ reason: 'USAGE', message: expect.stringMatching(/encrypted/) });
      expect(await served.places()).toEqual(['b']);
      expect(await tell(served, 'GET', 'where')).toBe('b');
      expect(await stateOf(id)).toBe('retained');
    }

    const { exitCode, stderr } = await world.gantry(world.a, 'rollback', id, '--identity', key);

    expect(exitCode, stderr).toBe(0);
    expect(await served.places()).toEqual(['a']);
    expect(await tell(served, 'GET', 'where')).toBe('a');
    expect(await retained()).toEqual([]);
  } finally {
    await rm(folder, { recursive: true });
  }
});

async function expectNoWayBack(id: string): Promise<void> {
  const { failure } = await world.gantry(world.a, 'rollback', id);
  expect(failure).toMatchObject({ reason: 'CONFLICT', message: expect.stringMatching(/no state is kept any more/) });
  expect(await stateOf(id)).toBe('reserved');
}

test.each([
  ["the source's agent is killed while the copy ends", 'end the copy', ['a', 'agent']],
  ["the source's agent is killed while it restores", 'create', ['a', 'agent']],
  ["the target's agent is killed while its copy ends", 'read', ['b', 'agent']],
] as const)('%s: the rollback is carried through', async (_what, phase, [name, service]) => {
  const id = await moved();
  const pid = await world.pidOf(world[name], service);
  const command = world.begin(world.a, 'rollback', id);
  if (phase === 'end the copy') await until('it is written', async () => (await stateOf(id)) === 'reverting');
  else await command.reached(phase === 'read' ? 'end the copy' : phase);
  process.kill(pid, 'SIGKILL');
  await command.ended;
  await until('it runs at the source', async () => (await served.places()).join() === 'a', 60_000);
  await until('it answers', async () => (await tell(served, 'GET', 'where').catch(() => '')) === 'a');
  await until('all of it is over', async () => (await stateOf(id)) === '', 30_000);
  await world.expectNothingLeft();
});
