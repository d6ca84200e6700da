import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MOST_PARENTS, sumOfManifest } from '../archive/chain.ts';
import { readImages } from '../criu/checkpoint.ts';
import { encodeImage } from '../criu/encode.ts';
import { PAGE } from '../criu/images.fixture.ts';
import { readMemory } from '../criu/read-memory.ts';
import { makeChild } from './chain.fixture.ts';
import { writeArchive, writeFolder } from './checkpoint.fixture.ts';
import { diff } from './diff.ts';
import { inspect } from './inspection.ts';
import { Checkpoint } from './open.ts';
import { carryOut, planOf } from './prune.ts';
import { survey } from './survey.ts';
import { tablesOf } from './text.ts';
import { verify } from './verify.ts';

/*
 * Folders of which each has only what was written since the one before.
 */

let folder: string;
const at = (name: string) => join(folder, name);

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-chain-'));
});
afterEach(() => rm(folder, { recursive: true }));

/** Memory from 0x2000 on, whose pages are named by a letter each. */
function memoryOf(letters: string): Record<string, Buffer> {
  const entry = { vaddr: 0x2000n, compat_nr_pages: letters.length, flags: 4 };
  return {
    'pagemap-1.img': encodeImage('PAGEMAP', [entry], { head: { pages_id: 1 } }),
    'pages-1.img': Buffer.concat([...letters].map((letter) => Buffer.alloc(PAGE, letter))),
  };
}

/** Each has the one before for its parent. */
async function writeChain(memories: Readonly<Record<string, string>>): Promise<void> {
  let before: string | undefined;
  let day = 1;
  for (const [name, letters] of Object.entries(memories)) {
    const created = new Date(Date.UTC(2026, 10, day++)).toISOString();
    await writeFolder(at(name), { images: memoryOf(letters), manifest: { created } });
    if (before !== undefined) {
      await using parent = await Checkpoint.open(at(before));
      await makeChild(at(name), at(before), parent.images);
    }
    before = name;
  }
}

async function lettersIn(name: string): Promise<string> {
  await using checkpoint = await Checkpoint.open(at(name));
  const [process] = (await readImages(checkpoint.images)).processes;
  const map = process?.memory?.pageMap;
  if (map === undefined) throw new Error('it has no memory');
  const end = map.runs.at(-1)?.end ?? 0n;
  const memory = await readMemory(checkpoint.images, map, { start: 0x2000n, end });
  if ('missing' in memory) return memory.missing;
  return Array.from({ length: memory.bytes.length / PAGE }, (_, page) =>
    memory.bytes.toString('latin1', page * PAGE, page * PAGE + 1),
  ).join('');
}

async function flawOf(name: string): Promise<unknown> {
  try {
    await using checkpoint = await Checkpoint.open(at(name));
    await verify(checkpoint);
    return undefined;
  } catch (error) {
    return error;
  }
}

async function changeManifest(name: string, change: object): Promise<string> {
  const manifest = JSON.parse(await readFile(join(at(name), 'gantry.json'), 'utf8')) as object;
  const text = JSON.stringify({ ...manifest, ...change });
  await writeFile(join(at(name), 'gantry.json'), text);
  return text;
}

describe('memory is found', () => {
  test('in the folder itself, in its parent, or in the parent of that', async () => {
    await writeChain({ a: 'abcdef', b: 'aBcdEf', c: 'aBCdefg' });
    const sizes = await Promise.all(
      ['a', 'b', 'c'].map(async (name) => (await readFile(join(at(name), 'checkpoint/pages-1.img'))).length / PAGE),
    );
    expect(sizes).toEqual([6, 2, 3]);
    expect(await Promise.all(['a', 'b', 'c'].map(lettersIn))).toEqual(['abcdef', 'aBcdEf', 'aBCdefg']);
  });

  test('also when the folder, or that of its parent, is reached by a symbolic link', async () => {
    await writeChain({ a: 'abcdef', b: 'aBcdEf' });
    await mkdir(at('far'));
    await symlink('../b', at('far/b'));
    expect(await lettersIn('far/b')).toBe('aBcdEf');
    await rename(at('a'), at('moved'));
    await symlink('moved', at('a'));
    expect(await lettersIn('b')).toBe('aBcdEf');
  });

  test('by verify, inspect and diff', async () => {
    await writeChain({ a: 'abcdef', b: 'aBcdEf' });
    await using one = await Checkpoint.open(at('a'));
    await using other = await Checkpoint.open(at('b'));
    const own = await verify(one);
    expect((await verify(other)).members).toBe(2 * own.members);
    const seen = await inspect(other);
    expect(seen).toMatchObject({ parent: '../a', memoryBytes: 2 * PAGE });
    const sections = { memory: false, files: false, sockets: false, mounts: false };
    const [facts] = tablesOf(seen, { ...sections, volumes: false, environment: false, statistics: false });
    expect(facts?.rows).toContainEqual(['memory', '8.0 KiB written since ../a']);
    const { memory, sharedMemory } = await diff(one, other);
    expect(memory[0]).toMatchObject({ same: 4, changed: 2, unknown: 0, added: 0, removed: 0 });
    // The one page of the segment is the same.
    expect(sharedMemory).toMatchObject([{ same: 1, changed: 0, unknown: 0 }]);
  });
});

describe('refused is one', () => {
  beforeEach(() => writeChain({ a: 'abcdef', b: 'aBcdEf', c: 'aBCdefg' }));

  test('whose parent is gone', async () => {
    await rm(at('a'), { recursive: true });
    expect(await flawOf('c')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/b is not complete: .*\/a cannot be read/),
    });
  });

  test('whose parent is another one', async () => {
    await changeManifest('a', { created: '' });
    expect(await flawOf('c')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/another one than it was made from/),
    });
  });

  test('of whose parent a part is missing', async () => {
    await truncate(join(at('a'), 'checkpoint/pages-1.img'), 5 * PAGE);
    expect(await flawOf('b')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/it has 20480 bytes/),
    });
  });

  test('of which pages are in none of them', async () => {
    const entry = { vaddr: 0x2000n, compat_nr_pages: 7, flags: 1 };
    const bytes = encodeImage('PAGEMAP', [entry], { head: { pages_id: 1 } });
    await writeFile(join(at('b'), 'checkpoint/pagemap-1.img'), bytes);
    expect(await flawOf('b')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/pagemap-1.img.*pages at 0x8000 are in no earlier dump/),
    });
  });

  test('that is its own ancestor', async () => {
    const parent = { folder: '../c', sha256: '0'.repeat(64) };
    const sha256 = sumOfManifest(await changeManifest('a', { parent }));
    await symlink('../../c/checkpoint', join(at('a'), 'checkpoint/parent'));
    const { parent: _, ...b } = JSON.parse(await readFile(join(at('b'), 'gantry.json'), 'utf8'));
    const changed = JSON.stringify({ ...b, parent: { folder: '../a', sha256 } });
    await writeFile(join(at('b'), 'gantry.json'), changed);
    await changeManifest('c', { parent: { folder: '../b', sha256: sumOfManifest(changed) } });
    expect(await flawOf('c')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/c is among its own parents/),
    });
  });

  test('whose link leads elsewhere than its manifest says, or has none, or one that nobody speaks of', async () => {
    const link = join(at('b'), 'checkpoint/parent');
    await rm(link);
    expect(await flawOf('b')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/parent is missing, and its manifest/),
    });
    await cp(at('a'), at('other'), { recursive: true });
    await symlink('../../other/checkpoint', link);
    expect(await flawOf('b')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/parent is \.\.\/\.\.\/other/),
    });
    await rm(link);
    await mkdir(link);
    expect(await flawOf('b')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/parent is no symbolic link/),
    });
    await symlink('/etc', join(at('a'), 'checkpoint/parent'));
    expect(await flawOf('a')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/manifest says that it has none/),
    });
  });

  test.each(['/etc', '', './a', '../a/'])('whose manifest says that its parent is "%s"', async (wrong) => {
    await changeManifest('b', { parent: { folder: wrong, sha256: '0'.repeat(64) } });
    expect(await flawOf('b')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/does not say what its parent is/),
    });
  });

  test('that is an archive', async () => {
    await writeArchive(at('a.tar'), { manifest: { parent: { folder: '../a', sha256: '0'.repeat(64) } } });
    expect(await flawOf('a.tar')).toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: expect.stringMatching(/parent, which only folders have/),
    });
  });
});

test('a chain is no longer than it may be', async () => {
  const names = Array.from({ length: MOST_PARENTS + 2 }, (_, index) => `n${index}`);
  await writeFolder(at('n0'), { images: memoryOf('a') });
  let sha256 = sumOfManifest(await readFile(join(at('n0'), 'gantry.json'), 'utf8'));
  for (const [index, name] of names.entries()) {
    if (index === 0) continue;
    const parent = { folder: `../n${index - 1}`, sha256 };
    await writeFolder(at(name), { images: memoryOf('a'), manifest: { parent } });
    await symlink(`../../n${index - 1}/checkpoint`, join(at(name), 'checkpoint/parent'));
    sha256 = sumOfManifest(await readFile(join(at(name), 'gantry.json'), 'utf8'));
  }
  expect(await flawOf(`n${MOST_PARENTS}`)).toBeUndefined();
  expect(await flawOf(`n${MOST_PARENTS + 1}`)).toMatchObject({
    message: expect.stringMatching(/more than 64 parents/),
  });
});

describe('in a folder of checkpoints', () => {
  const NOW = Date.parse('2026-11-24T00:00:00Z');
  const prune = async (limits: object) => {
    const plan = planOf(await survey(folder, { depth: 'manifests' }), folder, limits, NOW);
    const { failed } = await carryOut(plan);
    expect(failed).toEqual([]);
    return { ...plan, left: (await readdir(folder)).sort() };
  };
  beforeEach(() => writeChain({ a: 'abc', b: 'aBc', c: 'abC' }));

  test('is said what has a parent, and one without its parent is not whole', async () => {
    const { found } = await survey(folder, { depth: 'everything' });
    expect(found.map(({ state, parent, facts }) => [state, parent, facts?.parent])).toEqual([
      ['sound', undefined, undefined],
      ['sound', at('a'), '../a'],
      ['sound', at('b'), '../b'],
    ]);
    await rm(at('a'), { recursive: true });
    const later = await survey(folder, { depth: 'headers' });
    expect(later.found).toMatchObject([
      { name: 'b', state: 'damaged', why: expect.stringMatching(/not complete/) },
      { name: 'c', state: 'damaged' },
    ]);
  });

  test('what another one needs is not pruned, and that is said', async () => {
    const { left, leftAlone } = await prune({ keep: 1 });
    expect(left).toEqual(['a', 'b', 'c']);
    expect(leftAlone).toEqual([
      { path: at('b'), why: expect.stringContaining(`${at('c')} needs it`) },
      { path: at('a'), why: expect.stringContaining(`${at('b')} needs it`) },
    ]);
  });

  test('nor what one needs that is left alone itself', async () => {
    await writeFile(join(at('c'), 'notes.txt'), 'mine');
    expect((await prune({ olderThanMs: 1 })).left).toEqual(['a', 'b', 'c']);
  });

  test('nor what one needs that is damaged', async () => {
    await truncate(join(at('b'), 'gantry.json'), 0);
    expect((await prune({ olderThanMs: 1 })).left).toEqual(['a', 'b', 'c']);
  });

  test('the parent is known by the link or by the manifest', async () => {
    await rm(join(at('c'), 'checkpoint/parent'));
    await truncate(join(at('b'), 'gantry.json'), 0);
    const { found } = await survey(folder, { depth: 'headers' });
    expect(found.map(({ parent }) => parent)).toEqual([undefined, at('a'), at('b')]);
  });

  test('a whole chain goes, what needs another one first', async () => {
    await writeFolder(at('z'), { manifest: { created: new Date(NOW).toISOString() } });
    const { left, removals } = await prune({ keep: 1 });
    expect(left).toEqual(['z']);
    expect(removals.map(({ path }) => path)).toEqual([at('c'), at('b'), at('a')]);
  });

  test('a parent stays when what needs it could not be removed', async () => {
    const { removals, ...plan } = planOf(await survey(folder, { depth: 'manifests' }), folder, { olderThanMs: 1 }, NOW);
    await rm(at('c'), { recursive: true });
    const { done, failed } = await carryOut({ ...plan, removals });
    expect(done).toEqual([]);
    expect(failed.map(({ path }) => path)).toEqual([at('c'), at('b'), at('a')]);
  });
});
