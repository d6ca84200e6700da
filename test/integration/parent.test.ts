import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { linkTo, sumOfManifest } from '../../src/archive/chain.ts';
import type { Result } from '../../src/gen/gantry/v1/agent.ts';
import { makeChild } from '../../src/inspect/chain.fixture.ts';
import { Checkpoint } from '../../src/inspect/open.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { leftoversOn } from '../e2e/leftovers.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { type Pod, podAddress, runPod } from '../pods.ts';
import { digest, fill, RedisConnection } from '../redis.ts';
import { nodeNamed } from '../scenario.ts';

/*
 * Checkpoints that have only what was written since another one. The kernel of the machine that runs this may mark no
 * written pages, so that CRIU cannot make such a dump; restoring does not need that. So the chain is made of whole dumps
 * of one Redis: what CRIU would have left to the parent is left to it (src/criu/increment.fixture.ts).
 */

const NAME = 't-parent';
const FOLDER = '/var/tmp/chain';

let lab: LabEnvironment;
let node: NodeEnvironment;
let cri: Cri;
let redis: Pod;
/** Of what Redis had at each of the three. */
const digests: string[] = [];
const counts: { own: number; inParent: number }[] = [];

const here = (name: string) => `/proc/${node.pid}/root${FOLDER}/${name}`;
const shell = async (script: string) => (await labExec(NAME, 'a', ['sh', '-c', script])).stdout;
const attempt = async (...args: string[]) => {
  const command = ['sh', '-c', `gantry ${args.join(' ')}`];
  return labExec(NAME, 'a', command, { reject: false });
};
const gantry = async (...args: string[]) => {
  const { exitCode, stdout, stderr } = await attempt(...args, '-o json');
  expect(exitCode, stderr).toBe(0);
  return JSON.parse(stdout) as Result;
};
const refusal = async (...args: string[]) => {
  const { exitCode, stderr } = await attempt(...args);
  return [exitCode, stderr];
};

beforeAll(async () => {
  lab = await labUp({ name: NAME, nodes: 1 });
  node = nodeNamed(lab, 'a');
  cri = new Cri(node.runtimeSocket);
  await shell(`mkdir -m 700 ${FOLDER}`);
  const command = ['redis-server', '--save', '', '--protected-mode', 'no'];
  redis = await runPod(node.runtimeSocket, node.pid, { name: 'redis', image: lab.images.redis, command });
  for (const [index, name] of ['one', 'two', 'three'].entries()) {
    {
      using connection = await RedisConnection.open(redis.address);
      if (index === 0) await fill(connection, 8);
      else await connection.send('SET', `data:${name}`, `written before ${name}`);
      await connection.send('SET', 'data:last', name);
      digests.push(await digest(connection));
    }
    await gantry('checkpoint', redis.container, `--output ${FOLDER}/${name} --leave-running --tcp close`);
    if (index === 0) continue;
    const before = here(['one', 'two'][index - 1] ?? '');
    await using parent = await Checkpoint.open(before);
    counts.push(await makeChild(here(name), before, parent.images));
  }
});
afterEach(async () => {
  for (const { id } of await cri.listSandboxes()) if (id !== redis.sandbox) await cri.removeSandbox(id);
  expect(await leftoversOn(lab, node)).toEqual([]);
});
afterAll(async () => {
  cri?.close();
  await labDown(NAME);
});

async function digestOf({ sandboxId }: Result): Promise<string> {
  using connection = await RedisConnection.open(await podAddress(cri, sandboxId, node.pid));
  return await digest(connection);
}

async function digestWith(key: string, value: string): Promise<string> {
  using connection = await RedisConnection.open(redis.address);
  await connection.send('SET', key, value);
  return await digest(connection);
}

test('a container is restored from what it and its parents have, be it one or two', async () => {
  for (const { own, inParent } of counts) {
    expect(inParent).toBeGreaterThan(2000);
    expect(own).toBeGreaterThan(0);
    expect(own).toBeLessThan(inParent);
  }
  expect(new Set(digests).size).toBe(3);
  for (const [index, name] of [[2, 'three'] as const, [1, 'two'] as const]) {
    const result = await gantry('restore', `${FOLDER}/${name} --new-sandbox ${name}`);
    expect(await digestOf(result), name).toBe(digests[index]);
  }
});

test('verify, inspect, list, diff and prune know of the parents', async () => {
  const whole = JSON.parse(await shell(`gantry verify ${FOLDER}/one ${FOLDER}/three -o json`));
  expect(whole).toMatchObject([{ sound: true }, { sound: true }]);
  expect(whole[1].verified.images).toBe(3 * whole[0].verified.images);
  expect(await shell(`gantry inspect ${FOLDER}/two`)).toMatch(/memory +\S+ \S+ written since \.\.\/one/);
  expect(await shell(`gantry list ${FOLDER}`)).toMatch(/three .*folder, after \.\.\/two +yes/);
  const { memory } = JSON.parse(await shell(`gantry diff ${FOLDER}/one ${FOLDER}/two -o json`));
  expect(memory).toContainEqual(expect.objectContaining({ unknown: 0, same: expect.any(Number) }));
  const pruned = await shell(`gantry prune ${FOLDER} --keep 1`);
  expect(pruned).toMatch(/two stays: .*three needs it/);
  expect(pruned).toMatch(/one stays: .*two needs it/);
  expect(await shell(`ls ${FOLDER}`)).toBe('one\nthree\ntwo');
});

test('a parent that is gone, changed, cut off or its own ancestor is refused, and nothing is made', async () => {
  const restore = () => refusal('restore', `${FOLDER}/three --new-sandbox x`);
  await shell(`mv ${FOLDER}/one ${FOLDER}/away`);
  expect(await restore()).toEqual([35, expect.stringMatching(/two is not complete.*one cannot be read.*all of them/s)]);
  await shell(`mv ${FOLDER}/away ${FOLDER}/one`);

  const file = join(here('one'), 'gantry.json');
  const text = await readFile(file, 'utf8');
  await writeFile(file, text.replace('"version"', ' "version"'));
  expect(await restore()).toEqual([35, expect.stringMatching(/one is another one than it was made from/)]);
  await writeFile(file, text);

  const pages = `$(ls -S ${FOLDER}/one/checkpoint/pages-*.img | head -n 1)`;
  await shell(`cp ${pages} ${FOLDER}/kept; truncate -s 4096 ${pages}`);
  expect(await restore()).toEqual([35, expect.stringMatching(/pages-\d+\.img.*it ends before/)]);
  await shell(`cp ${FOLDER}/kept ${pages}; rm ${FOLDER}/kept`);

  // Of three, with two for a parent: two's own parent is three then.
  const cyclic = { folder: '../three', sha256: '0'.repeat(64) };
  const two = await readFile(join(here('two'), 'gantry.json'), 'utf8');
  const three = await readFile(join(here('three'), 'gantry.json'), 'utf8');
  const changed = JSON.stringify({ ...JSON.parse(two), parent: cyclic });
  await writeFile(join(here('two'), 'gantry.json'), changed);
  const parent = { folder: '../two', sha256: sumOfManifest(changed) };
  await writeFile(join(here('three'), 'gantry.json'), JSON.stringify({ ...JSON.parse(three), parent }));
  await shell(`ln -sfn ${linkTo(cyclic)} ${FOLDER}/two/checkpoint/parent`);
  expect(await restore()).toEqual([35, expect.stringMatching(/three is among its own parents/)]);
  await shell(`ln -sfn ../../one/checkpoint ${FOLDER}/two/checkpoint/parent`);
  await writeFile(join(here('two'), 'gantry.json'), two);
  await writeFile(join(here('three'), 'gantry.json'), three);
  expect(await shell(`gantry verify ${FOLDER}/three`)).toMatch(/sound/);
});

test('a dump of that kind is asked for by --output alone, and refused where the kernel marks no pages', async () => {
  const asked = (...args: string[]) => refusal('checkpoint', redis.container, ...args);
  const archive = await asked(`--archive ${FOLDER}/x.tar --parent ${FOLDER}/one --leave-running`);
  expect(archive).toEqual([2, expect.stringMatching(/stands alone.*need --output/)]);
  expect(await asked(`--output ${FOLDER}/x --track-memory`)).toEqual([2, expect.stringMatching(/--leave-running/)]);
  const dump = (name: string, option: string) =>
    asked(`--output ${FOLDER}/${name} --leave-running --tcp close ${option}`);
  const options = ['--track-memory', `--parent ${FOLDER}/one`];
  if ((await labExec(NAME, 'a', ['criu', 'check', '--feature', 'mem_dirty_track'], { reject: false })).exitCode === 0) {
    console.log('this kernel marks written pages: such a dump is made, not refused');
    // Nothing has tracked the memory since that one.
    expect(await dump('x', options[1] ?? '')).toEqual([9, expect.stringMatching(/not known/)]);
    expect(await dump('first', '--track-memory')).toEqual([0, expect.anything()]);
    const written = await digestWith('data:last', 'second');
    expect(await dump('second', `--parent ${FOLDER}/first`)).toEqual([0, expect.anything()]);
    expect(await digestOf(await gantry('restore', `${FOLDER}/second --new-sandbox second`))).toBe(written);
    return;
  }
  const says = /Linux \S+\) does not mark written pages.*mem_dirty_track.*CONFIG_MEM_SOFT_DIRTY.*stands alone/s;
  for (const option of options) expect(await dump('x', option)).toEqual([6, expect.stringMatching(says)]);
  expect(await shell(`ls ${FOLDER}`)).toBe('one\nthree\ntwo');
  expect(await digestWith('data:last', 'still here')).not.toBe(digests[2]);
});
