import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Load, predict } from './figures.ts';
import { verdictOf, worst } from './finding.ts';

const MIB = 1024 * 1024;
const none = { lazy: 0, shared: 0, copied: 0, locked: 0, huge: 0 };
const load = (fields: Partial<Load> = {}): Load => ({
  memory: none,
  filesBytes: 0,
  dirtyBytesPerSecond: 0,
  bandwidthMbit: 1000,
  possible: { live: '', hybrid: '', preCopy: '', cold: '' },
  ...fields,
});
const of = (mode: string, one: Load) => {
  const found = predict(one).find((each) => each.mode === mode);
  if (found === undefined) throw new Error(`no ${mode}`);
  return found;
};

test('the verdict is the worst that any finding forces', () => {
  expect([verdictOf([]), verdictOf([{ severity: 'hot' }, { severity: 'warm' }]), worst(['cold', 'no', 'hot'])]).toEqual(
    ['hot', 'warm', 'no'],
  );
});

describe('predictions', () => {
  test('stop-and-copy dumps, sends and restores everything while nobody serves', () => {
    const memory = { ...none, lazy: 100e6, shared: 25e6 };
    // 300 ms, 125 MB each way at 1 GB/s, and a second on the wire.
    expect(of('stop-and-copy', load({ memory })).downtimeMs).toBeCloseTo(300 + 250 + 1000);
  });

  test('hybrid waits for what cannot follow, and for 70 ms per GiB of what can', () => {
    expect(of('hybrid', load({ memory: { ...none, lazy: 1024 * MIB } })).downtimeMs).toBeCloseTo(130);
    expect(of('hybrid', load({ memory: { ...none, locked: 125e6 } })).downtimeMs).toBeCloseTo(60 + 250 + 1000);
  });

  test('pre-copy ends where memory is written faster than it is sent', () => {
    const memory = { ...none, lazy: 1000 * MIB };
    const calm = of('pre-copy', load({ memory, dirtyBytesPerSecond: 1e6 }));
    const wild = of('pre-copy', load({ memory, dirtyBytesPerSecond: 1e9 }));
    expect(calm.downtimeMs).toBeLessThan(1500);
    expect(wild.downtimeMs).toBeGreaterThan(10_000);
    expect(wild.bytes).toBeGreaterThan(8 * memory.lazy);
  });

  test('a cold start takes as long as the application does', () => {
    expect(of('cold', load({ filesBytes: 125e6 }))).toMatchObject({ possible: true, totalMs: 1400, bytes: 125e6 });
    expect(of('cold', load()).downtimeMs).toBeUndefined();
  });

  test('say why not', () => {
    const possible = { live: 'the verdict is cold', hybrid: '', preCopy: 'no soft-dirty', cold: '' };
    expect(predict(load({ possible })).map(({ mode, why }) => [mode, why])).toEqual([
      ...[
        ['hybrid', 'the verdict is cold'],
        ['pre-copy', 'the verdict is cold'],
        ['stop-and-copy', 'the verdict is cold'],
        ['cold', ''],
      ],
    ]);
  });

  test('more of anything never takes less, and no interruption is longer than the whole', () => {
    const size = fc.integer({ min: 0, max: 2 ** 40 });
    const memory = fc.record({ lazy: size, shared: size, copied: size, locked: size, huge: size });
    fc.assert(
      fc.property(memory, size, fc.integer({ min: 1, max: 100_000 }), (sizes, dirtyBytesPerSecond, bandwidthMbit) => {
        const one = load({ memory: sizes, dirtyBytesPerSecond, bandwidthMbit });
        const more = { ...one, memory: { ...sizes, shared: sizes.shared + MIB } };
        for (const mode of ['hybrid', 'stop-and-copy']) {
          expect(of(mode, more).downtimeMs).toBeGreaterThan(of(mode, one).downtimeMs ?? 0);
        }
        for (const { downtimeMs = 0, totalMs } of predict(one)) expect(totalMs).toBeGreaterThan(downtimeMs);
      }),
    );
  });
});
