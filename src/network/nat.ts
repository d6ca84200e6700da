import { linesOf } from '../check/proc/read.ts';
import { type PodSandboxConfig, Protocol } from '../gen/cri.ts';
import type { Address } from './address.ts';

/** Of one kind of translation; the rest is counted. */
const MOST_NAMED = 5;
const PROTOCOLS: Record<number, string> = { [Protocol.TCP]: 'tcp', [Protocol.UDP]: 'udp', [Protocol.SCTP]: 'sctp' };

/** A connection that this node's kernel tracks: as its first packet was, and as its answers come. */
export interface Tracked {
  readonly protocol: string;
  readonly first: Tuple;
  readonly answer: Tuple;
}

interface Tuple {
  readonly src: string;
  readonly dst: string;
  readonly sport: string;
  readonly dport: string;
}

/**
 * What of a pod's network does not move with its addresses: connections that this node translates (host ports, masquerade,
 * addresses of services) are known to its kernel alone.
 */
export async function natWarnings(config: PodSandboxConfig, addresses: readonly Address[]): Promise<string[]> {
  // Without connection tracking there is no such file, and no translation either.
  const lines = await linesOf('/proc/net/nf_conntrack').catch(() => []);
  return warningsOf(
    config,
    translated(
      lines.flatMap(parseTracked),
      addresses.map(({ local }) => expand(local)),
    ),
  );
}

/** Pure part of {@link natWarnings}. */
export function warningsOf(
  { portMappings }: Pick<PodSandboxConfig, 'portMappings'>,
  connections: readonly Tracked[],
): string[] {
  const mapped = portMappings
    .filter(({ hostPort }) => hostPort > 0)
    .map(
      ({ hostPort, containerPort, protocol, hostIp }) =>
        `host port ${hostIp === '' ? '' : `${hostIp}:`}${hostPort}/${PROTOCOLS[protocol] ?? 'tcp'} (port ${containerPort} of the pod): connections through it end with the move, new ones go to the other node`,
    );
  const named = connections.slice(0, MOST_NAMED).map(describe);
  const more = connections.length - named.length;
  return [
    ...mapped,
    ...named.map((each) => `this node translates ${each}: the connection does not move`),
    ...(more > 0 ? [`this node translates ${more} more connections of the pod: they do not move`] : []),
  ];
}

/** Pure: those that begin or end at one of these addresses (as the file has them) under another one. */
export function translated(connections: readonly Tracked[], locals: readonly string[]): Tracked[] {
  return connections.filter(({ first, answer }) => {
    const isPods = locals.includes(first.src) || locals.includes(answer.src);
    const isAsIs =
      first.src === answer.dst &&
      first.dst === answer.src &&
      first.sport === answer.dport &&
      first.dport === answer.sport;
    return isPods && !isAsIs;
  });
}

/** Pure: a line of /proc/net/nf_conntrack; none for one that has no ports or is not established. */
export function parseTracked(line: string): Tracked[] {
  const protocol = /^ipv[46]\s+\d+\s+(\w+)/.exec(line)?.[1];
  if (protocol === undefined || (protocol === 'tcp' && !line.includes(' ESTABLISHED '))) return [];
  const [first, answer] = [...line.matchAll(/src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)/g)].map(
    ([, src = '', dst = '', sport = '', dport = '']) => ({ src, dst, sport, dport }),
  );
  return first === undefined || answer === undefined ? [] : [{ protocol, first, answer }];
}

function describe({ protocol, first, answer }: Tracked): string {
  const asSent = `${protocol} ${ends(first.src, first.sport, first.dst, first.dport)}`;
  return `${asSent} (beyond it ${ends(answer.dst, answer.dport, answer.src, answer.sport)})`;
}

function ends(from: string, fromPort: string, to: string, toPort: string): string {
  return `${from}:${fromPort} → ${to}:${toPort}`;
}

/** An IPv6 address in eight groups of four digits: the file shortens none. */
export function expand(address: string): string {
  if (!address.includes(':')) return address;
  const groups = (text: string) => text.split(':').filter(Boolean);
  const [head = '', tail = ''] = address.split('::');
  const [before, after] = [groups(head), groups(tail)];
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => '0');
  return [...before, ...zeros, ...after].map((group) => group.padStart(4, '0')).join(':');
}
