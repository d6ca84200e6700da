import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Manifest } from '../archive/layout.ts';
import { encodeImage } from '../criu/encode.ts';
import { GantryError } from '../errors.ts';
import { type FixtureOptions, layer, writeArchive } from './checkpoint.fixture.ts';
import { diff } from './diff.ts';
import { differenceTables } from './diff-text.ts';
import { inspect } from './inspection.ts';
import { Checkpoint } from './open.ts';
import { tablesOf } from './text.ts';
import { incompleteness, verify } from './verify.ts';

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-damage-'));
});
afterAll(() => rm(folder, { recursive: true }));

const ALL = {
  memory: true,
  files: true,
  sockets: true,
  mounts: true,
  volumes: true,
  environment: true,
  statistics: true,
};

/** Everything that is done with a checkpoint; the reasons of what was thrown. */
async function everything(path: string, other: string): Promise<string[]> {
  const reasons: string[] = [];
  const attempt = async (work: () => unknown) => {
    try {
      await work();
    } catch (error) {
      expect(error).toBeInstanceOf(GantryError);
      reasons.push((error as GantryError).reason);
    }
  };
  await attempt(async () => {
    await using checkpoint = await Checkpoint.open(path);
    await using sound = await Checkpoint.open(other);
    await attempt(() => incompleteness(checkpoint));
    await attempt(() => verify(checkpoint));
    await attempt(async () => tablesOf(await inspect(checkpoint, { environment: true }), ALL));
    await attempt(async () => differenceTables(await diff(checkpoint, sound)));
    await attempt(async () => differenceTables(await diff(sound, checkpoint)));
  });
  return reasons;
}

const KNOWN = expect.stringMatching(/^(BAD_ARCHIVE|NOT_FOUND|UNSUPPORTED)$/);
const members = { 'rootfs-diff.tar': layer({ name: './data/file', content: 'x' }) };

test('whatever bits are wrong in an archive, there is a result or an error with a reason', async () => {
  const sound = await writeArchive(join(folder, 'sound.tar'), { members });
  const whole = await readFile(sound);
  expect(await everything(sound, sound)).toEqual([]);
  const path = join(folder, 'damaged.tar');
  const flips = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(7)), { minLength: 1, maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(flips, async (places) => {
      const damaged = Buffer.from(whole);
      for (const [at, bit] of places) damaged[at] = (damaged[at] ?? 0) ^ (1 << bit);
      await writeFile(path, damaged);
      for (const reason of await everything(path, sound)) expect(reason).toEqual(KNOWN);
    }),
    { numRuns: 200 },
  );
});

describe('it is an error, and no more than that,', () => {
  const reasonsOf = async (options: FixtureOptions) => {
    const sound = await writeArchive(join(folder, 'sound.tar'), { members });
    return everything(await writeArchive(join(folder, 'bad.tar'), options), sound);
  };

  test.each<[string, Partial<Record<keyof Manifest, unknown>>]>([
    ['no members', { members: null }],
    ['members that are none', { members: { 'spec.dump': null } }],
    ['no node', { node: null }],
    ['a sandbox with numbers for names', { sandbox: { config: '', name: 7, namespace: {}, addresses: 'x' } }],
    ['numbers for times', { created: 7, criu: [] }],
  ])('when a manifest has %s', async (_what, manifest) => {
    for (const reason of await reasonsOf({ manifest: manifest as Partial<Manifest> })) expect(reason).toEqual(KNOWN);
  });

  test('when page maps tell of more memory than there ever was', async () => {
    const pages = 2n ** 50n;
    for (const flags of [1, 4]) {
      const entries = [{ vaddr: 0x1000n, compat_nr_pages: 0, nr_pages: pages / (flags === 4 ? 2n ** 12n : 1n), flags }];
      const images = { 'pagemap-1.img': encodeImage('PAGEMAP', entries, { head: { pages_id: 1 } }) };
      for (const reason of await reasonsOf({ images })) expect(reason).toEqual(KNOWN);
    }
  });
});
