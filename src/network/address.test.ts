import { expect, it } from 'vitest';
import { isNeighbour } from './address.ts';

const inet = (local: string, prefixLength: number) => ({ family: 'inet' as const, local, prefixLength });
const inet6 = (local: string, prefixLength: number) => ({ family: 'inet6' as const, local, prefixLength });

it('takes addresses of one subnet for neighbours, and no others', () => {
  expect(isNeighbour(inet('10.1.2.3', 16), inet('10.1.7.7', 16))).toBe(true);
  expect(isNeighbour(inet('10.1.2.3', 24), inet('10.1.7.7', 24))).toBe(false);
  expect(isNeighbour(inet('10.1.2.3', 16), inet('10.1.7.7', 24))).toBe(false);
  expect(isNeighbour(inet6('fd67::1:1', 64), inet6('fd67::2:1', 64))).toBe(true);
  expect(isNeighbour(inet6('fd67:0:0:1::1', 64), inet6('fd67::1', 64))).toBe(false);
  expect(isNeighbour(inet6('fd67::1', 16), inet('10.1.7.7', 16))).toBe(false);
});
