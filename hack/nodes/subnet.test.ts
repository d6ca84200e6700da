import { expect, test } from 'vitest';
import { ipv4Plan, ipv6Plan, pickSubnet } from './subnet.ts';

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
  const subnet = '10.70.0.0/16';
  expect(ipv4Plan(70, 'flat').pods(2)).toEqual({
    subnet,
    gateway: '10.70.0.2',
    rangeStart: '10.70.2.1',
    rangeEnd: '10.70.2.254',
  });
});

test('routed, the parts are subnets', () => {
  expect(ipv4Plan(70, 'routed').pods(2)).toMatchObject({ subnet: '10.70.2.0/24', gateway: '10.70.2.1' });
  expect(ipv6Plan(70, 'routed').pods(2)).toMatchObject({ subnet: 'fd67:70:2::/64', gateway: 'fd67:70:2::1' });
});
