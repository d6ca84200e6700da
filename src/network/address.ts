import { BlockList } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { runInNetwork } from '../runtime/program.ts';

/** One address of a pod's interface, as `ip -json address` tells it. */
export interface Address {
  family: 'inet' | 'inet6';
  local: string;
  prefixLength: number;
}

/** The part of a route that is put back after an address was exchanged. */
interface Route {
  dst: string;
  gateway?: string;
}

/** The addresses of global scope on a pod's interface. Link-local ones are the interface's own, and stay with it. */
export async function addressesOf(netns: string, device = 'eth0'): Promise<Address[]> {
  const text = await runInNetwork(netns, 'ip', ['-json', 'address', 'show', 'dev', device, 'scope', 'global']);
  const [link] = JSON.parse(text) as { addr_info?: { family: string; local: string; prefixlen: number }[] }[];
  return (link?.addr_info ?? [])
    .filter((info) => info.family === 'inet' || info.family === 'inet6')
    .map((info) => ({ family: info.family as Address['family'], local: info.local, prefixLength: info.prefixlen }));
}

/**
 * Gives a pod's interface exactly these addresses, and its routes through gateways back (removing an address removes
 * them). No duplicate-address detection: the old owner is shut, and a tentative address cannot be bound at restore.
 *
 * The gateways are this node's. When the addresses are of another node's subnet that one's pods are no neighbours here:
 * everything goes through the gateway.
 */
export async function replaceAddresses(netns: string, addresses: readonly Address[], device = 'eth0'): Promise<void> {
  const present = await addressesOf(netns, device);
  const routes = await gatewayRoutes(netns, device);
  const commands = [
    ...present.map(({ local, prefixLength }) => `address del ${local}/${prefixLength} dev ${device}`),
    ...addresses.map((address) => {
      const options = [
        ...(address.family === 'inet6' ? ['nodad'] : []),
        ...(present.some((own) => isNeighbour(own, address)) ? [] : ['noprefixroute']),
      ];
      return ['address add', `${address.local}/${address.prefixLength}`, 'dev', device, ...options].join(' ');
    }),
    ...routes.map(({ dst, gateway }) => `route replace ${dst} via ${gateway} dev ${device} onlink`),
  ];
  await runInNetwork(netns, 'ip', ['-batch', '-'], { input: `${commands.join('\n')}\n` });
}

/** Pure: whether two addresses are of one subnet. */
export function isNeighbour(one: Address, other: Address): boolean {
  if (one.family !== other.family || one.prefixLength !== other.prefixLength) return false;
  const subnet = new BlockList();
  const family = one.family === 'inet' ? 'ipv4' : 'ipv6';
  subnet.addSubnet(one.local, one.prefixLength, family);
  return subnet.check(other.local, family);
}

async function gatewayRoutes(netns: string, device: string): Promise<Route[]> {
  const of = async (family: string) => {
    const text = await runInNetwork(netns, 'ip', ['-json', family, 'route', 'show', 'dev', device]);
    return (JSON.parse(text || '[]') as Route[]).filter((route) => route.gateway !== undefined);
  };
  return [...(await of('-4')), ...(await of('-6'))];
}

/** Tells the neighbours where addresses live now, at once and again, because one frame may be lost. Takes two seconds. */
export async function announce(netns: string, addresses: readonly Address[], device = 'eth0'): Promise<void> {
  const gratuitousArp = ({ local }: Address) =>
    runInNetwork(netns, 'arping', ['-q', '-U', '-c', '2', '-w', '2', '-I', device, local]);
  await Promise.all([
    ...addresses.filter(({ family }) => family === 'inet').map(gratuitousArp),
    ...(addresses.some(({ family }) => family === 'inet6') ? [unsolicitedAdvertisements(netns, device)] : []),
  ]);
}

/**
 * The kernel sends a neighbour advertisement for every IPv6 address of an interface whose MAC was set, be it to the same
 * one (ndisc_netdev_event in net/ipv6/ndisc.c), where the switch ndisc_notify is on.
 */
async function unsolicitedAdvertisements(netns: string, device: string): Promise<void> {
  const text = await runInNetwork(netns, 'ip', ['-json', 'link', 'show', 'dev', device]);
  const [link] = JSON.parse(text) as { address: string }[];
  const advertise = () => runInNetwork(netns, 'ip', ['link', 'set', 'dev', device, 'address', link?.address ?? '']);
  const notify = `net.ipv6.conf.${device}.ndisc_notify`;
  const before = await runInNetwork(netns, 'sysctl', ['-n', notify]);
  await runInNetwork(netns, 'sysctl', ['-qw', `${notify}=1`]);
  await advertise();
  await sleep(1000);
  await advertise();
  await runInNetwork(netns, 'sysctl', ['-qw', `${notify}=${before.trim()}`]);
}
