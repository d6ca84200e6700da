import { deflateSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { framed, MessageReader } from './messages.ts';
import { message } from './relay.fixture.ts';

const read = (reader: MessageReader, ...views: Buffer[]) => views.flatMap((view) => [...reader.read(view)]).map(String);

test('messages are the same, however they are cut', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 40 })), fc.array(fc.integer({ min: 1, max: 20 })), (all, cuts) => {
      const bytes = Buffer.concat(all.map(framed));
      const reader = new MessageReader(undefined, 100);
      const got: Buffer[] = [];
      for (let at = 0, i = 0; at < bytes.length; i += 1) {
        const end = at + (cuts[i % cuts.length] ?? bytes.length);
        got.push(...reader.read(bytes.subarray(at, end)));
        at = end;
      }
      expect(got.map((one) => [...one])).toEqual(all.map((one) => [...one]));
      expect(reader.partial).toBe(false);
    }),
  );
});

test('what it gives is its own: the memory it was read from may change', () => {
  const bytes = message('before');
  const [one] = new MessageReader(undefined, 100).read(bytes);
  bytes.fill(0);
  expect(String(one)).toBe('before');
});

test('a message that is not whole yet is partial', () => {
  const reader = new MessageReader(undefined, 100);
  expect(read(reader, message('whole').subarray(0, 7))).toEqual([]);
  expect(reader.partial).toBe(true);
});

test('compressed ones are unpacked, beside others that are not', () => {
  const bytes = [message(gzipSync('packed'), 1), message('plain')];
  expect(read(new MessageReader('gzip', 100), ...bytes)).toEqual(['packed', 'plain']);
  expect(read(new MessageReader('deflate', 100), message(deflateSync('packed'), 1))).toEqual(['packed']);
});

test.each([
  ['larger than allowed', message('x'.repeat(101)), undefined, 8],
  ['larger than allowed once it is unpacked', message(gzipSync('x'.repeat(10_000)), 1), 'gzip', 8],
  ['packed in a way nobody knows', message('x', 1), 'snappy', 12],
  ['packed without saying how', message('x', 1), undefined, 12],
  ['not what it says', message('x', 1), 'gzip', 13],
  ['marked with an unknown flag', message('x', 2), undefined, 13],
])('a message %s is an error', (_what, bytes, encoding, code) => {
  expect(() => read(new MessageReader(encoding, 100), bytes)).toThrow(expect.objectContaining({ code }));
});
