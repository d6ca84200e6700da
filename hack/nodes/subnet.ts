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

/** How the pods of a lab are reached: as neighbours of everybody, or behind their node. */
export const NETWORKS = ['flat', 'routed'] as const;
export type Network = (typeof NETWORKS)[number];

/** What there is of one family in a lab, as `ip` takes it. */
export interface Plan {
  /** The network of the nodes and the client; flat, that of the pods, too. */
  readonly subnet: string;
  readonly client: string;
  readonly node: (place: number) => string;
  /** Length of the subnet's prefix where the nodes are. */
  readonly prefixLength: number;
  /** Of the pods of a node. */
  readonly pods: (place: number) => PodRange;
}

export interface PodRange {
  readonly subnet: string;
  readonly gateway: string;
  readonly rangeStart: string;
  readonly rangeEnd: string;
}

/** IPv4 of the lab with this second octet. Places count from 1. Flat, all lie in its one /16; routed, each node has a /24. */
export function ipv4Plan(octet: number, network: Network): Plan {
  const subnet = `10.${octet}.0.0/16`;
  const node = (place: number) => `10.${octet}.0.${place}`;
  const within = (place: number) => `10.${octet}.${place}`;
  const client = `10.${octet}.0.254`;
  if (network === 'routed') {
    const pods = (place: number) => ({
      subnet: `${within(place)}.0/24`,
      gateway: `${within(place)}.1`,
      rangeStart: `${within(place)}.2`,
      rangeEnd: `${within(place)}.254`,
    });
    return { subnet, client, node, prefixLength: 24, pods };
  }
  const pods = (place: number) => ({
    subnet,
    gateway: node(place),
    rangeStart: `${within(place)}.1`,
    rangeEnd: `${within(place)}.254`,
  });
  return { subnet, client, node, prefixLength: 16, pods };
}

/** IPv6 beside it, from the unique local fd67:OCTET::/32: the numbers are written as in the IPv4 addresses. */
export function ipv6Plan(octet: number, network: Network): Plan {
  const subnet = `fd67:${octet}::/64`;
  const node = (place: number) => `fd67:${octet}::${place}`;
  const client = `fd67:${octet}::254`;
  if (network === 'routed') {
    const pods = (place: number) => ({
      subnet: `fd67:${octet}:${place}::/64`,
      gateway: `fd67:${octet}:${place}::1`,
      rangeStart: `fd67:${octet}:${place}::2`,
      rangeEnd: `fd67:${octet}:${place}::ff`,
    });
    return { subnet, client, node, prefixLength: 64, pods };
  }
  const pods = (place: number) => ({
    subnet,
    gateway: node(place),
    rangeStart: `fd67:${octet}::${place}:1`,
    rangeEnd: `fd67:${octet}::${place}:ff`,
  });
  return { subnet, client, node, prefixLength: 64, pods };
}

/** What a lab has, IPv4 first. `subnet` is its 10.X.0.0/16. */
export function plansOf({ subnet, network = 'flat', ipv6 = false }: NetworkOptions & { subnet: string }): Plan[] {
  const octet = Number(subnet.split('.')[1]);
  return [ipv4Plan(octet, network), ...(ipv6 ? [ipv6Plan(octet, network)] : [])];
}

export interface NetworkOptions {
  /** "flat" when left out. */
  readonly network?: Network;
  /** Every node and pod has an IPv6 address, too. */
  readonly ipv6?: boolean;
}
