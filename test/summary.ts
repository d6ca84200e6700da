import type { Reporter, TestModule } from 'vitest/node';

/** Ends the run with one line that any tool can read. */
export default class Summary implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const counts = { passed: 0, failed: 0, skipped: 0, pending: 0 };
    for (const module of modules) {
      for (const test of module.children.allTests()) counts[test.result().state]++;
      // A file that cannot even be loaded has no tests to count.
      if (module.state() === 'failed' && [...module.children.allTests()].length === 0) counts.failed++;
    }
    const { passed, failed, skipped, pending } = counts;
    // After the other reporters' own last words.
    process.on('exit', () => console.log(`${passed} passed, ${failed + pending} failed, ${skipped} skipped`));
  }
}
