import { BinaryWriter } from '@bufbuild/protobuf/wire';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { fieldsOf, textAt } from './wire.ts';

const utf8 = (bytes: Uint8Array) => Buffer.from(bytes).toString();

const message = new BinaryWriter()
  .uint32(8)
  .int64(-1n) // field 1, varint of ten bytes
  .uint32(17)
  .fixed64(7n) // field 2
  .uint32(26)
  .string('three')
  .uint32(37)
  .fixed32(4) // field 4
  .uint32(26)
  .string('three again')
  .uint32(8002)
  .bytes(new BinaryWriter().uint32(10).string('deep: ü').finish()) // field 1000
  .finish();

test('fields are found among others, of whatever kind', () => {
  expect([...fieldsOf(message, 3)].map(utf8)).toEqual(['three', 'three again']);
  expect([...fieldsOf(message, 1)]).toEqual([]); // a number
  expect([...fieldsOf(message, 5)]).toEqual([]);
});

test('a path leads into messages in messages, and to the first of several', () => {
  expect(textAt(message, [3])).toBe('three');
  expect(textAt(message, [1000, 1])).toBe('deep: ü');
  expect(textAt(message, [1000, 2])).toBeUndefined();
  expect(textAt(message, [7, 1])).toBeUndefined();
});

test('of a message that is cut off, what is whole is found', () => {
  for (let end = 0; end <= message.length; end += 1) {
    expect(['three', undefined]).toContain(textAt(message.subarray(0, end), [3]));
  }
  expect(textAt(message.subarray(0, message.length - 1), [3])).toBe('three');
});

test('any bytes are looked through, to an end', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.integer({ min: 1, max: 20 }), (bytes, number) => {
      for (const value of fieldsOf(bytes, number)) expect(value.length).toBeLessThanOrEqual(bytes.length);
    }),
  );
});
