import { expect, test } from 'vitest';
import { filterFor } from './connections.ts';

test.each([
  ['ESTABLISHED', '10.0.0.1:80', '10.0.0.2:4711', ['( src 10.0.0.1:80 and dst 10.0.0.2:4711 )']],
  ['CLOSE_WAIT', '[fd00::1]:80', '[fd00::2]:4711', ['( src [fd00::1]:80 and dst [fd00::2]:4711 )']],
  ['LISTEN', '0.0.0.0:80', '0.0.0.0:0', []],
  ['TIME_WAIT', '10.0.0.1:80', '10.0.0.2:4711', []],
])('one in state %s of %s', (state, local, remote, filters) => {
  expect(filterFor({ state, local, remote })).toEqual(filters);
});
