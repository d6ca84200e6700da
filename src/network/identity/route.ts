import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import type { AgentConfig } from '../../agent/config.ts';
import { GantryError } from '../../errors.ts';
import type { Log } from '../../log.ts';
import { run, runInNetwork } from '../../runtime/program.ts';
import { splitAddress } from '../../transfer/peer.ts';
import type { Address } from '../address.ts';
import { L2Provider } from './l2.ts';
import type { MovedPod, Provider } from './provider.ts';

/** Of Gantry's routes and proxy neighbours (rtnetlink(7): those from 4 on are for programs like this one). */
export const PROTOCOL = '199';

/** A route as `ip -json route` tells it. */
export interface Route {
  readonly dst: string;
  readonly dev: string;
  readonly gateway?: string;
  readonly protocol?: string;
}

/**
 * Subnets of pods per node, with routes between them. The node that a pod was started on gets its packets, and sends them
 * on to where it went; that one sends them to the pod's interface. Both with a host route: it is narrower than the subnet's.
 */
export class RouteProvider implements Provider {
  readonly lasts = true;
  readonly #config: AgentConfig;
  readonly #neighbours: L2Provider;

  constructor(config: AgentConfig, log: Log) {
    this.#config = config;
    this.#neighbours = new L2Provider(log);
  }

  async takeOver(pod: MovedPod): Promise<void> {
    const device = await nodeSideOf(pod.netns);
    const takeOver = async (address: Address) => {
      // Where the subnet's own route leads to it, it has come home.
      const isHome = (await subnetDevice(address)) === device;
      await setRoute(address, isHome ? undefined : ['dev', device]);
      await removeProxies(address);
    };
    await Promise.all(pod.addresses.map(takeOver));
    await this.#neighbours.takeOver(pod);
  }

  async leave(pod: MovedPod): Promise<void> {
    // Back to where its packets come from: sent there they would come again.
    if (pod.peer === pod.from) return this.withdraw(pod);
    const sendOn = async (address: Address) => {
      await setRoute(address, ['via', await this.#nextHop(pod.peer, address)]);
      const neighbours = await subnetDevice(address);
      if (neighbours !== undefined) await addProxy(address, neighbours);
    };
    await Promise.all(pod.addresses.map(sendOn));
  }

  async withdraw({ addresses }: MovedPod): Promise<void> {
    for (const address of addresses) {
      await setRoute(address);
      await removeProxies(address);
    }
  }

  /** Errors: UNSUPPORTED, without an address of that family. */
  async #nextHop(peer: string, { family, local }: Address): Promise<string> {
    const { peers, identity } = this.#config;
    const version = family === 'inet' ? 4 : 6;
    const configured = identity.provider === 'route' ? (identity.nextHops[peer] ?? []) : [];
    const { host } = splitAddress(peers[peer] ?? '');
    const known = configured.find((each) => isIP(each) === version) ?? (isIP(host) === version ? host : undefined);
    if (known !== undefined) return known;
    const found =
      isIP(host) !== 0 || host === '' ? undefined : await lookup(host, { family: version }).catch(() => undefined);
    if (found !== undefined) return found.address;
    throw new GantryError(
      'UNSUPPORTED',
      `no IPv${version} address of node ${peer} is known: ${local} has no route there`,
      {
        hint: `name one in "identity.nextHops.${peer}" of the agent's configuration`,
      },
    );
  }
}

/** Pure: the device that the subnet of an address is on, undefined when it is behind a gateway. */
export function subnetOf(matching: readonly Route[]): string | undefined {
  const width = ({ dst }: Route) => (dst === 'default' ? 0 : Number(dst.split('/')[1] ?? 128));
  const [best] = matching
    .filter(({ protocol }) => protocol !== PROTOCOL)
    .sort((one, other) => width(other) - width(one));
  return best === undefined || best.gateway !== undefined || width(best) === 0 ? undefined : best.dev;
}

async function subnetDevice(address: Address): Promise<string | undefined> {
  return subnetOf(await routes(address, ['match', host(address)]));
}

/** The node's end of a pod's interface, or the bridge that it is a port of. Errors: UNSUPPORTED. */
async function nodeSideOf(netns: string): Promise<string> {
  const [inside] = JSON.parse(await runInNetwork(netns, 'ip', ['-json', 'link', 'show', 'dev', 'eth0'])) as {
    link_index?: number;
  }[];
  const links = JSON.parse(await run('ip', ['-json', 'link', 'show'])) as {
    ifindex: number;
    ifname: string;
    master?: string;
  }[];
  const outside = links.find(({ ifindex }) => ifindex === inside?.link_index);
  if (outside !== undefined) return outside.master ?? outside.ifname;
  throw new GantryError('UNSUPPORTED', `the pod's interface eth0 (${netns}) is no veth with an end on this node`, {
    hint: 'use the provider "exec" for this network',
  });
}

/** Makes this the one route of Gantry's to an address, at once, or takes away what there is. */
async function setRoute(address: Address, wanted?: readonly ['dev' | 'via', string]): Promise<void> {
  const own = ['proto', PROTOCOL];
  if (wanted !== undefined) await run('ip', [flag(address), 'route', 'replace', host(address), ...wanted, ...own]);
  // For IPv6 one through a gateway and one to a device do not replace each other.
  for (const { dev, gateway } of await routes(address, ['exact', host(address), ...own])) {
    if (wanted?.[1] === (gateway ?? dev)) continue;
    const via = gateway === undefined ? [] : ['via', gateway];
    await run('ip', [flag(address), 'route', 'del', host(address), ...via, 'dev', dev, ...own]);
  }
}

async function routes(address: Address, selector: readonly string[]): Promise<Route[]> {
  const text = await run('ip', ['-json', flag(address), 'route', 'show', ...selector]);
  return JSON.parse(text || '[]') as Route[];
}

/** Has the node answer its own pods for an address of their subnet that is not there any more. */
async function addProxy(address: Address, device: string): Promise<void> {
  // IPv4 needs no switch: an entry is enough where the node forwards.
  if (address.family === 'inet6') await run('sysctl', ['-qw', `net.ipv6.conf.${device}.proxy_ndp=1`]);
  await run('ip', [flag(address), 'neigh', 'replace', 'proxy', address.local, 'dev', device, 'protocol', PROTOCOL]);
}

async function removeProxies(address: Address): Promise<void> {
  const text = await run('ip', ['-json', flag(address), 'neigh', 'show', 'proxy']);
  const all = JSON.parse(text || '[]') as { dst: string; dev: string; protocol?: string }[];
  for (const { dev } of all.filter(({ dst, protocol }) => dst === address.local && protocol === PROTOCOL)) {
    await run('ip', [flag(address), 'neigh', 'del', 'proxy', address.local, 'dev', dev]);
  }
}

function flag({ family }: Address): string {
  return family === 'inet' ? '-4' : '-6';
}

function host({ family, local }: Address): string {
  return `${local}/${family === 'inet' ? 32 : 128}`;
}
