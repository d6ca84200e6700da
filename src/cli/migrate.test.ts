import { expect, test } from 'vitest';
import { Quiesced } from '../gen/gantry/v1/agent.ts';
import { addTimeout, describeQuiesced } from './migrate.ts';

test('limits of phases add up, and are of phases that there are', () => {
  expect(addTimeout('sync files=2.5', addTimeout('frozen=1', { dump: 3 }))).toEqual({
    dump: 3,
    frozen: 1,
    'sync files': 2.5,
  });
  for (const wrong of ['commit=1', 'dump', 'dump=', 'dump=0', 'dump=x', '=1', 'dump=1e9'])
    expect(() => addTimeout(wrong, {})).toThrow();
});

test.each([
  [{ quiet: true, waitedMs: 12.3 }, 'quiet after 12 ms'],
  [{ waitedMs: 1000, waiting: 3 }, 'not quiet within 1000 ms: 3 connections had data waiting'],
  [{ waitedMs: 1000, packets: 1 }, 'not quiet within 1000 ms: 1 packet had just come in'],
  [
    { waitedMs: 50, packets: 9, waiting: 1 },
    'not quiet within 50 ms: 1 connection had data waiting, 9 packets had just come in',
  ],
  [{ waitedMs: 50 }, 'not quiet within 50 ms: only just now'],
])('%o is told in one line', (fields, text) => {
  expect(describeQuiesced(Quiesced.fromPartial(fields))).toBe(text);
});
