import { status } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { statusTrailers } from './status.ts';

test('a message is percent-encoded as gRPC asks, and decodes to what it was', () => {
  const text = 'ümläut, 100 %, new\nline, \u{1f3d7}, lone \ud800 surrogate';
  const encoded = statusTrailers(status.UNAVAILABLE, text)['grpc-message'] ?? '';
  expect(encoded).toMatch(/^[\x20-\x7e]*$/);
  expect(decodeURIComponent(encoded)).toBe(text.toWellFormed());
});

test('a message stays below 4 KiB, whatever was asked for', () => {
  const encoded = statusTrailers(status.UNIMPLEMENTED, 'x'.repeat(100_000))['grpc-message'] ?? '';
  expect(encoded.length).toBeLessThan(4096);
});
