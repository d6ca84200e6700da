import { performance } from 'node:perf_hooks';

/** Runs one step and says on stderr what it is and how long it took, if that is more than a second. */
export async function step<Value>(title: string, action: () => Promise<Value>): Promise<Value> {
  const start = performance.now();
  const seconds = (): string => `${((performance.now() - start) / 1000).toFixed(1)} s`;
  const announce = setTimeout(() => say(`${title}…`), 1000);
  const remind = setInterval(() => say(`${title}: ${seconds()} so far`), 20_000);
  try {
    const value = await action();
    if (performance.now() - start > 1000) say(`${title}: done in ${seconds()}`);
    return value;
  } finally {
    clearTimeout(announce);
    clearInterval(remind);
  }
}

export function say(line: string): void {
  process.stderr.write(`lab: ${line}\n`);
}
