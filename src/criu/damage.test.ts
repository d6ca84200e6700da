import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GantryError } from '../errors.ts';
import { readArguments, readEnvironment } from './arguments.ts';
import { smallCheckpoint } from './checkpoint.fixture.ts';
import { readImages } from './checkpoint.ts';
import { memorySource } from './images.fixture.ts';
import { kindOf } from './kinds.ts';
import { flatten } from './process-tree.ts';

describe('whatever the images are, there is a result or a BAD_ARCHIVE', () => {
  const whole = smallCheckpoint();
  const names = Object.keys(whole).filter((file) => kindOf(file) !== undefined);

  async function attempt(file: string, bytes: Buffer): Promise<void> {
    const source = memorySource({ ...whole, [file]: bytes });
    try {
      for (const process of flatten((await readImages(source)).processes)) {
        await readArguments(source, process);
        await readEnvironment(source, process);
      }
    } catch (error) {
      expect(error, file).toBeInstanceOf(GantryError);
      expect((error as GantryError).reason).toBe('BAD_ARCHIVE');
    }
  }

  test('one cut off at every byte', async () => {
    for (const file of names) {
      const bytes = whole[file] as Buffer;
      for (let length = 0; length < bytes.length; length++) await attempt(file, bytes.subarray(0, length));
    }
  });

  test('one with bits that are wrong', async () => {
    const flips = fc.array(fc.tuple(fc.nat(), fc.nat(7)), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...names), flips, async (file, places) => {
        const damaged = Buffer.from(whole[file] as Buffer);
        for (const [place, bit] of places) {
          // Behind the magic numbers, which the images' own test damages.
          const at = 8 + (place % (damaged.length - 8));
          damaged[at] = (damaged[at] ?? 0) ^ (1 << bit);
        }
        await attempt(file, damaged);
      }),
      { numRuns: 1000 },
    );
  });
});
