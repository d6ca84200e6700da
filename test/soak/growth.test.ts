import { expect, test } from 'vitest';
import { judgeMemory, judgeQuiet, median } from './growth.ts';
import type { Sample } from './samples.ts';

const MIB = 1024 * 1024;

/** A sample each second for some minutes. */
const samples = (minutes: number, mebibytes: (second: number) => number): Sample[] =>
  Array.from({ length: minutes * 60 }, (_, second) => ({
    at: second * 1000,
    relay: 'steady',
    pid: 1,
    residentBytes: mebibytes(second) * MIB,
    descriptors: 20,
  }));

test('memory that settles after a warm-up does not grow', () => {
  const memory = judgeMemory(samples(10, (second) => Math.min(100, 60 + second)));
  expect(memory).toMatchObject({ startBytes: 60 * MIB, warmBytes: 100 * MIB, endBytes: 100 * MIB, grows: false });
});

test('memory that creeps is found, and a single peak is not', () => {
  expect(judgeMemory(samples(10, (second) => 60 + second / 15))?.grows).toBe(true);
  expect(judgeMemory(samples(10, (second) => (second === 590 ? 500 : 60)))?.grows).toBe(false);
});

test('a short soak is not judged, and nothing is no figure', () => {
  expect(judgeMemory(samples(1, (second) => 60 + second))?.grows).toBeUndefined();
  expect(judgeMemory([])).toBeUndefined();
});

test('a quiet moment that differs from the first says in what', () => {
  const first = { at: 0, pid: 1, descriptors: 20, streams: 1, connections: 1 };
  expect(judgeQuiet({ ...first, at: 1, pid: 2 }, first)).toBeUndefined();
  expect(judgeQuiet({ ...first, descriptors: 21, streams: 2 }, first)).toBe(
    '21 descriptors, 20 at first; 2 streams, 1 at first',
  );
});

test('the median of an even number lies between', () => {
  expect([median([3, 1, 2]), median([4, 1, 3, 2]), median([])]).toEqual([2, 2.5, 0]);
});
