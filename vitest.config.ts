import { defineConfig } from 'vitest/config';

// Suites that use the lab share two cores and one machine: they run one file after another, in this order.
const lab = { fileParallelism: false, testTimeout: 120_000, hookTimeout: 180_000 };

export default defineConfig({
  test: {
    projects: [
      { test: { name: 'unit', include: ['src/**/*.test.ts', 'hack/**/*.test.ts'] } },
      { test: { name: 'integration', include: ['test/integration/**/*.test.ts'], ...lab } },
      { test: { name: 'faults', include: ['test/faults/**/*.test.ts'], ...lab } },
      { test: { name: 'e2e', include: ['test/e2e/**/*.test.ts'], ...lab } },
    ],
  },
});
