import { createHash } from 'node:crypto';
import { LabError } from './failure.ts';

/** Second octets to choose from: 10.64.0.0/16 to 10.127.0.0/16. */
const FIRST = 64;
const COUNT = 64;

/**
 * The second octet of a lab's 10.X.0.0/16: by its name, so that a lab mostly has the same addresses each time, and the
 * next free one when something in `taken` ("10.64.3.0/24") overlaps.
 */
export function pickSubnet(lab: string, taken: readonly string[]): number {
  const ranges = taken.map(rangeOf);
  const start = createHash('sha256').update(lab).digest().readUInt32BE() % COUNT;
  for (let step = 0; step < COUNT; step++) {
    const octet = FIRST + ((start + step) % COUNT);
    const mine = rangeOf(`10.${octet}.0.0/16`);
    if (!ranges.some((range) => range.first <= mine.last && mine.first <= range.last)) return octet;
  }
  throw new LabError('no free network between 10.64.0.0/16 and 10.127.0.0/16', {
    hint: 'see: ip route; hack/lab down --all',
  });
}

function rangeOf(prefix: string): { first: number; last: number } {
  const [address = '', length = '32'] = prefix.split('/');
  const value = address.split('.').reduce((sum, octet) => sum * 256 + Number(octet), 0);
  const size = 2 ** (32 - Number(length));
  const first = Math.floor(value / size) * size;
  return { first, last: first + size - 1 };
}

/** Addresses of a lab: the nodes, the host, and a /24 of pods per node all lie in its one /16. */
export function addressesOf(octet: number): { subnet: string; client: string; node: (index: number) => string } {
  return { subnet: `10.${octet}.0.0/16`, client: `10.${octet}.0.254`, node: (index) => `10.${octet}.0.${index + 1}` };
}

/** First and last address that CNI gives to pods of the node with this address: 10.X.0.N → 10.X.N.1 to 10.X.N.254. */
export function podRange(nodeAddress: string): { rangeStart: string; rangeEnd: string } {
  const [ten, octet, , number] = nodeAddress.split('.');
  return { rangeStart: `${ten}.${octet}.${number}.1`, rangeEnd: `${ten}.${octet}.${number}.254` };
}
