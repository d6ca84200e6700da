import { expect, it } from 'vitest';
import { type Bar, drawTimeline, ticksUntil } from './timeline.ts';

const bars: Bar[] = [
  { name: 'check', startMs: 0, durationMs: 10, kind: 'serving' },
  { name: 'freeze', startMs: 50, durationMs: 20, kind: 'frozen' },
  { name: 'client', startMs: 55, durationMs: 45, kind: 'waiting' },
];

it('draws every bar on the same axis', () => {
  expect(drawTimeline(bars, { width: 32, endMs: 100 })).toEqual([
    '        ms  0   20  40  60  80',
    'check   10  ░░  ┊   ┊   ┊   ┊',
    'freeze  20  ┊   ┊   ┊ ████  ┊',
    'client  45  ┊   ┊   ┊  ├───────┤',
  ]);
});

it('shows a bar of no length, and one at the very end', () => {
  const instants = [0, 100].map((startMs) => ({ ...(bars[1] as Bar), startMs, durationMs: 0 }));
  const lines = drawTimeline(instants, { width: 22, endMs: 100 });
  expect(lines.slice(1).map((line) => line.indexOf('█'))).toEqual([12, 21]);
});

it('keeps the frame of its width, whatever is coloured', () => {
  const lines = drawTimeline(bars, { width: 60, endMs: 100, paint: (_kind, text) => `<${text}>` });
  expect(Math.max(...lines.map((line) => line.replaceAll(/[<>]/g, '').length))).toBeLessThanOrEqual(60);
});

it('has a handful of round ticks at any scale', () => {
  expect(ticksUntil(95)).toEqual([0, 20, 40, 60, 80]);
  expect(ticksUntil(2260)).toEqual([0, 500, 1000, 1500, 2000]);
});
