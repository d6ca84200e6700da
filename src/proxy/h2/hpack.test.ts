import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Field, type Fields } from './fields.ts';
import { ErrorCode } from './frames.ts';
import { HpackDecoder } from './hpack.ts';

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex');
const pairs = (fields: Fields | undefined): string[] | undefined =>
  fields?.map(({ name, value }) => `${name}: ${value}`);

// RFC 7541 appendix C. Each group is one connection.
const REQUESTS = [
  [':method: GET', ':scheme: http', ':path: /', ':authority: www.example.com'],
  [':method: GET', ':scheme: http', ':path: /', ':authority: www.example.com', 'cache-control: no-cache'],
  [':method: GET', ':scheme: https', ':path: /index.html', ':authority: www.example.com', 'custom-key: custom-value'],
];
const DATES = ['Mon, 21 Oct 2013 20:13:21 GMT', 'Mon, 21 Oct 2013 20:13:22 GMT'];
const response = (status: string, date: string | undefined, ...more: string[]): string[] => [
  `:status: ${status}`,
  'cache-control: private',
  `date: ${date}`,
  'location: https://www.example.com',
  ...more,
];
const COOKIE = 'set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1';
const RESPONSES = [
  response('302', DATES[0]),
  response('307', DATES[0]),
  response('200', DATES[1], 'content-encoding: gzip', COOKIE),
];

const VECTORS: [name: string, table: number, blocks: string[], lists: string[][]][] = [
  [
    'C.2.1 literal with indexing',
    4096,
    ['400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572'],
    [['custom-key: custom-header']],
  ],
  ['C.2.2 literal without indexing', 4096, ['040c 2f73 616d 706c 652f 7061 7468'], [[':path: /sample/path']]],
  ['C.2.3 literal never indexed', 4096, ['1008 7061 7373 776f 7264 0673 6563 7265 74'], [['password: secret']]],
  ['C.2.4 indexed', 4096, ['82'], [[':method: GET']]],
  [
    'C.3 requests without Huffman',
    4096,
    [
      '8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
      '8286 84be 5808 6e6f 2d63 6163 6865',
      '8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65',
    ],
    REQUESTS,
  ],
  [
    'C.4 requests with Huffman',
    4096,
    [
      '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff',
      '8286 84be 5886 a8eb 1064 9cbf',
      '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf',
    ],
    REQUESTS,
  ],
  [
    'C.5 responses without Huffman, with eviction',
    256,
    [
      `4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e
       1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d`,
      '4803 3330 37c1 c0bf',
      `88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d
       4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572
       7369 6f6e 3d31`,
    ],
    RESPONSES,
  ],
  [
    'C.6 responses with Huffman, with eviction',
    256,
    [
      `4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b
       97c8 e9ae 82ae 43d3`,
      '4883 640e ffc1 c0bf',
      `88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf
       cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07`,
    ],
    RESPONSES,
  ],
];

test.each(VECTORS)('RFC 7541 %s', (_name, table, blocks, lists) => {
  const decoder = new HpackDecoder(65_536, table);
  expect(blocks.map((block) => pairs(decoder.decode(hex(block))))).toEqual(lists);
});

test('a field that came never indexed goes on never indexed, and is not shared with one that was not', () => {
  const [secret] = new HpackDecoder(65_536).decode(hex('1008 7061 7373 776f 7264 0673 6563 7265 74')) ?? [];
  expect(secret?.sensitive).toBe(true);
  expect(secret?.wire.toString('hex')).toBe(hex('1008 7061 7373 776f 7264 0673 6563 7265 74').toString('hex'));
  expect(new Field(':path', '/x').wire.toString('hex')).toBe('04022f78');
  expect(new Field(':path', '/x', true).wire.toString('hex')).toBe('14022f78');
  expect(new Field(':method', 'POST').wire.toString('hex')).toBe('83');
});

describe('what is no header block ends the connection', () => {
  test.each([
    ['index 0', '80'],
    ['an index beyond the table', 'be'],
    ['an index far beyond the table', 'ffffff7f'],
    ['a name index beyond the table', '7e0161'],
    ['an integer that does not end', 'ff8080'],
    ['an integer of endless zeros', 'ff80808080808080808000'],
    ['an integer that overflows', 'ffffffffffffffffff7f'],
    ['a string beyond the end', '000a61'],
    ['a missing value', '000161'],
    ['a length of two to the sixty', '007fffffffffffffffff0f'],
    ['Huffman padding of eight bits', '000161 82 1fff'],
    ['Huffman padding of zeros', '000161 81 18'],
    ['EOS in a string', '000161 84 ffffffff'],
    ['a table larger than announced', '3fe21f'],
    ['a table size update after a field', '8220'],
  ])('%s', (_name, block) => {
    expect(() => new HpackDecoder(65_536).decode(hex(block))).toThrow(
      expect.objectContaining({ code: ErrorCode.COMPRESSION_ERROR }),
    );
  });
});

test('a list that is too large is read to its end, so that the table stays right', () => {
  const decoder = new HpackDecoder(100);
  expect(decoder.decode(Buffer.concat([hex('4001610162'), new Field('x', 'y'.repeat(100)).wire]))).toBeUndefined();
  expect(pairs(decoder.decode(hex('be')))).toEqual(['a: b']);
});

test('a small block that stands for a huge list ("HPACK bomb") takes neither memory nor long', () => {
  const decoder = new HpackDecoder(128 * 1024);
  const value = 'v'.repeat(4000);
  const bomb = Buffer.concat([literalWithIndexing('a', value), Buffer.alloc(100_000, 0xbe)]);
  const before = process.memoryUsage().heapUsed;
  const begun = performance.now();
  expect(decoder.decode(bomb)).toBeUndefined();
  expect(performance.now() - begun).toBeLessThan(500);
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(32 * 2 ** 20);
});

test('an entry larger than the table empties it; a table of size 0 works', () => {
  const decoder = new HpackDecoder(65_536);
  decoder.decode(hex('4001610162'));
  expect(pairs(decoder.decode(literalWithIndexing('big', 'x'.repeat(5000))))?.length).toBe(1);
  expect(() => decoder.decode(hex('be'))).toThrow();
  expect(pairs(decoder.decode(hex('20 4001610162')))).toEqual(['a: b']);
});

const bytes = fc.string({ unit: fc.integer({ min: 0, max: 255 }).map((c) => String.fromCharCode(c)), maxLength: 300 });

test('what is encoded is decoded', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(bytes, bytes, fc.boolean())), (fields) => {
      const list = fields.map(([name, value, sensitive]) => new Field(name, value, sensitive));
      const decoded = new HpackDecoder(2 ** 24).decode(Buffer.concat(list.map(({ wire }) => wire)));
      expect(pairs(decoded)).toEqual(pairs(list));
      expect(decoded?.map(({ sensitive }) => sensitive)).toEqual(list.map(({ sensitive }) => sensitive));
    }),
    { numRuns: 300 },
  );
});

test('what is encoded with a dynamic table by nghttp2-like means is decoded, whatever is evicted', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.integer({ min: 0, max: 30 }), fc.integer({ min: 0, max: 900 }))), (steps) => {
      const decoder = new HpackDecoder(2 ** 24);
      let table: string[] = [];
      for (const [index, length] of steps) {
        if (index < table.length) {
          expect(pairs(decoder.decode(Buffer.of(0x80 | (62 + index))))).toEqual([table[index]]);
          continue;
        }
        const value = String.fromCharCode(97 + (length % 26)).repeat(length);
        expect(pairs(decoder.decode(literalWithIndexing('name', value)))).toEqual([`name: ${value}`]);
        table = [`name: ${value}`, ...table];
        while (table.reduce((sum, entry) => sum + entry.length - 2 + 32, 0) > 4096) table.pop();
      }
    }),
    { numRuns: 200 },
  );
});

test('random bytes are a list, or a COMPRESSION_ERROR, and nothing else', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (block) => {
      try {
        new HpackDecoder(65_536).decode(Buffer.from(block));
      } catch (error) {
        expect(error).toMatchObject({ code: ErrorCode.COMPRESSION_ERROR });
      }
    }),
    { numRuns: 5000 },
  );
});

function literalWithIndexing(name: string, value: string): Buffer {
  // The encoding without indexing, with the bits of the other form: both begin with the index of the name, here 0.
  const wire = Buffer.from(new Field(name, value).wire);
  wire[0] = 0x40;
  return wire;
}
