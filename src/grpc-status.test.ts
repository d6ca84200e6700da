import { status as library } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { nameOfCode, status } from './grpc-status.ts';

test('codes are those of the gRPC library, every one', () => {
  const codes = Object.entries(library).filter(([, code]) => typeof code === 'number');
  expect(status).toEqual(Object.fromEntries(codes));
});

test('a code has a name, and one that gRPC does not have is its number', () => {
  expect([0, 5, 16, 17, -1].map(nameOfCode)).toEqual(['OK', 'NOT_FOUND', 'UNAUTHENTICATED', '17', '-1']);
});
