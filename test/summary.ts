import type { Reporter, TestModule } from 'vitest/node';

/** The lines that tell of failures: few and short enough for the end of a log that is cut off. */
const TOLD = 12;
const WIDTH = 240;

/** Ends the run with what failed, a line each, and one line of counts that any tool can read. */
export default class Summary implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const counts = { passed: 0, failed: 0, skipped: 0, pending: 0 };
    const failures: string[] = [];
    for (const module of modules) {
      const file = module.relativeModuleId.split('/').at(-1);
      const tell = (name: string, message = '') =>
        failures.push(`failed: ${file}: ${name}: ${message.replaceAll(/\s+/g, ' ')}`.slice(0, WIDTH));
      for (const test of module.children.allTests()) {
        const { state, errors } = test.result();
        counts[state]++;
        if (state === 'failed') tell(test.name, errors?.[0]?.message);
      }
      for (const error of module.errors()) tell('the file', error.message);
      // A file that cannot even be loaded has no tests to count.
      if (module.state() === 'failed' && [...module.children.allTests()].length === 0) counts.failed++;
    }
    const { passed, failed, skipped, pending } = counts;
    // After the other reporters' own last words.
    process.on('exit', () => {
      for (const line of failures.slice(0, TOLD)) console.log(line);
      if (failures.length > TOLD) console.log(`... and ${failures.length - TOLD} more`);
      console.log(`${passed} passed, ${failed + pending} failed, ${skipped} skipped`);
    });
  }
}
