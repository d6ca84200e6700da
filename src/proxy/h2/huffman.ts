import { byteAt } from './frames.ts';

// The code is canonical (RFC 7541 appendix B): the lengths, in order of symbol, give the codes. One base-36 digit each,
// for the 256 bytes and EOS.
const LENGTHS =
  'dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad67777777777777777777777878djde6' +
  'f56565666577666567655677777fbedskmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllmlnmnnkmmmnmmn' +
  'qqkjmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu';

const EOS = 256;

// An automaton over half bytes, as nghttp2 has one: a state is a node of the code's tree, and as every code has at least
// five bits, four more bits end at most one symbol. Per state and half byte: next state, symbol, and what there is to it.
const EMIT = 0x10000; // the low byte of the entry is a symbol
const FAIL = 0x20000; // EOS, which a string may not contain (RFC 7541 5.2)
const STATE_SHIFT = 8;

interface Automaton {
  steps: Int32Array;
  /** Whether a string may end in a state: padding is fewer than eight bits, all of them ones (RFC 7541 5.2). */
  accepts: Uint8Array;
}

function build(): Automaton {
  const symbols = [...LENGTHS].map((digit, symbol) => ({ symbol, length: Number.parseInt(digit, 36) }));
  symbols.sort((a, b) => a.length - b.length || a.symbol - b.symbol);
  // Two children per node; a leaf is −1 − symbol.
  const tree: [number, number][] = [[0, 0]];
  let code = 0;
  let length = 0;
  for (const entry of symbols) {
    code <<= entry.length - length;
    length = entry.length;
    insert(tree, code, length, entry.symbol);
    code += 1;
  }
  const steps = new Int32Array(tree.length * 16);
  for (let state = 0; state < tree.length; state += 1) {
    for (let half = 0; half < 16; half += 1) steps[state * 16 + half] = step(tree, state, half);
  }
  const accepts = new Uint8Array(tree.length);
  for (let state = 0, ones = 0; ones < 8; ones += 1) {
    accepts[state] = 1;
    state = tree[state]?.[1] ?? 0;
  }
  return { steps, accepts };
}

function insert(tree: [number, number][], code: number, length: number, symbol: number): void {
  let node = 0;
  for (let bit = length - 1; bit > 0; bit -= 1) {
    const children = tree[node] as [number, number];
    const side = ((code >>> bit) & 1) as 0 | 1;
    if (children[side] === 0) children[side] = tree.push([0, 0]) - 1;
    node = children[side];
  }
  (tree[node] as [number, number])[(code & 1) as 0 | 1] = -1 - symbol;
}

function step(tree: readonly [number, number][], from: number, half: number): number {
  let state = from;
  let emitted = 0;
  for (let bit = 3; bit >= 0; bit -= 1) {
    const next = (tree[state] as [number, number])[((half >>> bit) & 1) as 0 | 1];
    if (next >= 0) {
      state = next;
    } else {
      const symbol = -1 - next;
      if (symbol === EOS) return FAIL;
      emitted = EMIT | symbol;
      state = 0;
    }
  }
  // 256 inner nodes at most: 257 symbols. Bit 16 and 17 are the marks, so the state stands between symbol and marks.
  return (emitted & EMIT) | (state << STATE_SHIFT) | (emitted & 0xff);
}

const { steps, accepts } = build();

let scratch = Buffer.allocUnsafeSlow(4096);

/** The string that `from[start…end)` encodes, a character per byte, or undefined if it is no valid encoding. */
export function decodeHuffman(from: Uint8Array, start: number, end: number): string | undefined {
  // The shortest code has five bits.
  const most = Math.ceil(((end - start) * 8) / 5);
  if (scratch.length < most) scratch = Buffer.allocUnsafeSlow(most * 2);
  const to = scratch;
  let length = 0;
  let state = 0;
  for (let at = start; at < end; at += 1) {
    const byte = byteAt(from, at);
    const high = steps[(state << 4) | (byte >>> 4)] as number;
    if ((high & FAIL) !== 0) return undefined;
    if ((high & EMIT) !== 0) to[length++] = high;
    const low = steps[((high >>> STATE_SHIFT) & 0xff) * 16 + (byte & 15)] as number;
    if ((low & FAIL) !== 0) return undefined;
    if ((low & EMIT) !== 0) to[length++] = low;
    state = (low >>> STATE_SHIFT) & 0xff;
  }
  return accepts[state] === 1 ? to.toString('latin1', 0, length) : undefined;
}
