import { defineConfig } from 'vitest/config';

/** Tests that use the lab wait more than they work: two files at a time, each with a lab of its own, on two cores. */
const lab = (name: string) => ({
  test: {
    name,
    include: [`test/${name}/**/*.test.ts`],
    maxWorkers: 2,
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
          include: ['src/**/*.test.ts', 'hack/**/*.test.ts', 'test/soak/**/*.test.ts'],
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
