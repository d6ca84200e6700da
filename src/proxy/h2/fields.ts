/**
 * One header field, name and value with a character per byte. Objects are shared: a field that a peer refers to by index is
 * the object of its first appearance, and what has been found out about it (its encoding, its validity) stays with it.
 */
export class Field {
  readonly name: string;
  readonly value: string;
  /** It came as "never indexed", and must go on like that (RFC 7541 6.2.3, 7.1.3). */
  readonly sensitive: boolean;
  /** No intermediary may pass it on (RFC 9113 8.2.1, 8.2.2). */
  readonly malformed: boolean;
  #wire: Buffer | undefined;

  constructor(name: string, value: string, sensitive = false) {
    this.name = name;
    this.value = value;
    this.sensitive = sensitive;
    this.malformed = isMalformed(name, value);
  }

  /** What it counts in tables and lists (RFC 7541 4.1, RFC 9113 6.5.2). */
  get size(): number {
    return this.name.length + this.value.length + 32;
  }

  /** Its encoding for any connection: by reference to the static table, or literally without indexing. */
  get wire(): Buffer {
    this.#wire ??= encodeField(this);
    return this.#wire;
  }
}

/** Fields in the order in which they came, repeats included. */
export type Fields = readonly Field[];

export function field(name: string, value: string): Field {
  return new Field(name, value);
}

export function fieldValue(fields: Fields, name: string): string | undefined {
  for (const one of fields) if (one.name === name) return one.value;
  return undefined;
}

// Lower-case token characters (RFC 9110 5.6.2), with the colon of pseudo-header fields. What is in a value is not ours to
// judge but for the three characters that could make two fields of one elsewhere (RFC 9113 8.2.1).
const NAME = /^:?[!#$%&'*+\-.^_`|~0-9a-z]+$/;
const FORBIDDEN_IN_VALUE = /[\0\r\n]/;
const OF_CONNECTIONS = new Set(['connection', 'proxy-connection', 'keep-alive', 'transfer-encoding', 'upgrade']);

function isMalformed(name: string, value: string): boolean {
  return (
    !NAME.test(name) ||
    FORBIDDEN_IN_VALUE.test(value) ||
    OF_CONNECTIONS.has(name) ||
    (name === 'te' && value !== 'trailers')
  );
}

/** RFC 7541 appendix A, from index 1 on. */
export const STATIC_TABLE: readonly Field[] = (
  ':authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|:status=204|' +
  ':status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|accept-encoding=gzip, deflate|' +
  'accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control|' +
  'content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type|' +
  'cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|' +
  'last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|' +
  'server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate'
)
  .split('|')
  .map((entry) => {
    const [name = '', value = ''] = entry.split('=');
    return new Field(name, value);
  });

/** By name: the first entry that has it, and those that have a value as well. */
const STATIC_NAMES = new Map<string, { index: number; values: Map<string, number> }>();
STATIC_TABLE.forEach(({ name, value }, i) => {
  const entry = STATIC_NAMES.get(name) ?? { index: i + 1, values: new Map<string, number>() };
  entry.values.set(value, i + 1);
  STATIC_NAMES.set(name, entry);
});

function encodeField({ name, value, sensitive }: Field): Buffer {
  const known = STATIC_NAMES.get(name);
  const whole = sensitive ? undefined : known?.values.get(value);
  if (whole !== undefined) return Buffer.of(0x80 | whole); // RFC 7541 6.1; the table ends below 127
  const to = Buffer.allocUnsafe(name.length + value.length + 16);
  // RFC 7541 6.2.2 and 6.2.3. No entry is ever added to the peer's dynamic table: there is no state to keep, and this
  // encoding is the same on every connection.
  let at = writeInteger(to, 0, sensitive ? 0x10 : 0, 4, known?.index ?? 0);
  if (known === undefined) at = writeString(to, at, name);
  return to.subarray(0, writeString(to, at, value));
}

// RFC 7541 5.1.
function writeInteger(to: Buffer, start: number, mark: number, bits: number, value: number): number {
  const most = 2 ** bits - 1;
  let at = start;
  if (value < most) {
    to[at++] = mark | value;
    return at;
  }
  to[at++] = mark | most;
  let rest = value - most;
  for (; rest >= 128; rest >>>= 7) to[at++] = (rest & 127) | 128;
  to[at++] = rest;
  return at;
}

// RFC 7541 5.2, not Huffman-coded: on one machine bytes are cheaper than bits.
function writeString(to: Buffer, start: number, text: string): number {
  const at = writeInteger(to, start, 0, 7, text.length);
  return at + to.write(text, at, 'latin1');
}
