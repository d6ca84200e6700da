import { expect, test } from 'vitest';
import { timeoutField, timeoutOf } from './deadline.ts';
import { field } from './h2/fields.ts';

test.each([
  ['2H', 7_200_000],
  ['3M', 180_000],
  ['119S', 119_000],
  ['500m', 500],
  ['12345678u', 12_345.678],
  ['99999999n', 99.999999],
  ['0m', 0],
])('a timeout of %s is %d ms', (text, ms) => {
  expect(timeoutOf([field(':path', '/'), field('grpc-timeout', text)])).toBeCloseTo(ms, 6);
});

test.each(['', '1', 'S', '123456789S', '1s', '-1S', '1.5S'])('"%s" is no timeout', (text) => {
  expect(timeoutOf([field('grpc-timeout', text)])).toBe(Number.POSITIVE_INFINITY);
});

test('without the field there is none', () => {
  expect(timeoutOf([])).toBe(Number.POSITIVE_INFINITY);
});

test.each([
  [0.0001, '1u'],
  [1.5, '1500u'],
  [99_999.999, '99999999u'],
  [100_000, '100000m'],
  [120_000.2, '120001m'],
  [99_999_999, '99999999m'],
  [100_000_000, '100000S'],
])('%d ms are told as %s: never less, never more than eight digits', (ms, text) => {
  expect(timeoutField(ms).value).toBe(text);
});
