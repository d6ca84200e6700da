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
  protocol?: string;
}

/** The addresses of global scope on a pod's interface. */
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
 */
export async function replaceAddresses(netns: string, addresses: readonly Address[], device = 'eth0'): Promise<void> {
  const present = await addressesOf(netns, device);
  const routes = await gatewayRoutes(netns, device);
  const commands = [
    ...present.map(({ local, prefixLength }) => `address del ${local}/${prefixLength} dev ${device}`),
    ...addresses.map(
      ({ local, prefixLength, family }) =>
        `address add ${local}/${prefixLength} dev ${device}${family === 'inet6' ? ' nodad' : ''}`,
    ),
    ...routes.map(({ dst, gateway }) => `route replace ${dst} via ${gateway} dev ${device}`),
  ];
  await runInNetwork(netns, 'ip', ['-batch', '-'], { input: `${commands.join('\n')}\n` });
}

async function gatewayRoutes(netns: string, device: string): Promise<Route[]> {
  const of = async (family: string) => {
    const text = await runInNetwork(netns, 'ip', ['-json', family, 'route', 'show', 'dev', device]);
    return (JSON.parse(text || '[]') as Route[]).filter((route) => route.gateway !== undefined);
  };
  return [...(await of('-4')), ...(await of('-6'))];
}

/**
 * Tells the neighbours where an IPv4 address lives now: gratuitous ARP, at once and again, because one frame may be lost.
 * IPv6 neighbours learn it by neighbour discovery on their next packet.
 */
export async function announce(netns: string, addresses: readonly Address[], device = 'eth0'): Promise<void> {
  const send = ({ local }: Address) =>
    runInNetwork(netns, 'arping', ['-q', '-U', '-c', '2', '-w', '2', '-I', device, local]);
  await Promise.all(addresses.filter(({ family }) => family === 'inet').map(send));
}
