import { expect, test } from 'vitest';
import { pickSubnet, podRange } from './subnet.ts';

test('a lab has the same network each time', () => {
  expect(pickSubnet('default', [])).toBe(pickSubnet('default', []));
  expect(pickSubnet('default', [])).not.toBe(pickSubnet('other', []));
});

test('a network that overlaps with one in use is passed over, whatever their sizes', () => {
  const first = pickSubnet('default', []);
  const next = first === 127 ? 64 : first + 1;
  expect(pickSubnet('default', [`10.${first}.7.9/32`])).toBe(next);
  expect(pickSubnet('default', [`10.${first}.128.0/17`, '192.0.2.1/24'])).toBe(next);
});

test('a machine whose routes cover everything has no network left', () => {
  expect(() => pickSubnet('default', ['10.0.0.0/8'])).toThrow('no free network');
});

test('each node gives out its own part', () => {
  expect(podRange('10.70.0.2')).toEqual({ rangeStart: '10.70.2.1', rangeEnd: '10.70.2.254' });
});
