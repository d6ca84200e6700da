import { defineConfig } from 'vitest/config';

/** Half an hour is all that there is for `make test`: these are left to `make test-crashes`. */
const LATER = [
  'test/integration/programs.test.ts',
  'test/integration/cri-checkpoint.test.ts',
  'test/integration/checkpoint-options.test.ts',
  'test/integration/archive.test.ts',
  'test/integration/crun.test.ts',
  'test/faults/checkpoint-errors.test.ts',
  'test/faults/shortages.test.ts',
  'test/faults/surgery-crashes.test.ts',
  'test/faults/partition.test.ts',
  'test/faults/halted-agents.test.ts',
  'test/e2e/twenty-moves.test.ts',
];
const exclude = process.env.GANTRY_ALL_MOMENTS === '1' ? [] : LATER;
if (exclude.length > 0) console.log(`left to make test-crashes, for their time: ${exclude.join(', ')}`);

/** Suites that use the lab share two cores and one machine: one file after another. */
const lab = (name: string) => ({
  test: {
    name,
    include: [`test/${name}/**/*.test.ts`],
    exclude,
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 180_000,
    sequence: { groupOrder: 1 },
  },
});

export default defineConfig({
  test: {
    reporters: ['default', './test/summary.ts'],
    projects: [
      {
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'hack/**/*.test.ts', 'test/soak/**/*.test.ts', 'test/model/**/*.test.ts'],
          testTimeout: 30_000,
          sequence: { groupOrder: 0 },
        },
      },
      lab('integration'),
      lab('faults'),
      lab('e2e'),
    ],
  },
});
