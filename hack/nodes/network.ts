import { createHash } from 'node:crypto';
import { run } from './program.ts';
import type { Plan } from './subnet.ts';

/**
 * Name of a lab's bridge on the host; its veths are called NAME-NODE. Derived from the lab's name alone so that `down`
 * finds them without a record, and short: Linux allows 15 characters.
 */
export function bridgeName(lab: string): string {
  return `gl${digest(lab).slice(0, 8)}`;
}

/** A MAC per lab and place (0 is the host, 1 the first node…): fixed, so that no neighbour table goes stale. */
export function macOf(lab: string, place: number): string {
  const [a, b, c] = digest(lab).match(/../g) ?? [];
  return `02:67:${a}:${b}:${c}:${place.toString(16).padStart(2, '0')}`;
}

function digest(lab: string): string {
  return createHash('sha256').update(lab).digest('hex');
}

/**
 * The host's end of the lab: a bridge with the client's addresses, over which it reaches the nodes, and the pods directly or
 * through their nodes (`places`). Its routes go with it.
 */
export async function createBridge(lab: string, plans: readonly Plan[], places: readonly number[]): Promise<void> {
  const bridge = bridgeName(lab);
  await run('ip', ['link', 'add', bridge, 'address', macOf(lab, 0), 'type', 'bridge']);
  // No link-local address and none of its chatter.
  await run('ip', ['link', 'set', bridge, 'addrgenmode', 'none', 'up']);
  for (const { subnet, client, prefixLength, node, pods } of plans) {
    const isIpv6 = client.includes(':');
    await run('ip', ['address', 'add', `${client}/${prefixLength}`, 'dev', bridge, ...(isIpv6 ? ['nodad'] : [])]);
    for (const place of places) {
      const { subnet: behind } = pods(place);
      if (behind !== subnet) await run('ip', ['route', 'add', behind, 'via', node(place), 'dev', bridge]);
    }
  }
}

/** Joins a node to the bridge. The other end is made inside the node, where init.sh waits for it. */
export async function plugIn(lab: string, node: string, pid: number): Promise<void> {
  const veth = `${bridgeName(lab)}-${node}`;
  await run('ip', ['link', 'add', veth, 'type', 'veth', 'peer', 'name', 'uplink', 'netns', String(pid)]);
  await run('ip', ['link', 'set', veth, 'master', bridgeName(lab), 'addrgenmode', 'none', 'up']);
}

/** Takes a node off the bridge, if it is on it. */
export async function unplug(lab: string, node: string): Promise<void> {
  const veth = `${bridgeName(lab)}-${node}`;
  await deleteLinks((ifname) => ifname === veth);
}

/** Removes whatever interfaces a lab has on the host. */
export async function destroyInterfaces(lab: string): Promise<void> {
  const bridge = bridgeName(lab);
  await deleteLinks((ifname) => ifname === bridge || ifname.startsWith(`${bridge}-`));
}

async function deleteLinks(isMeant: (ifname: string) => boolean): Promise<void> {
  for (const { ifname } of (await links()).filter((link) => isMeant(link.ifname))) {
    // It may go by itself meanwhile, with the namespace of its other end.
    await run('ip', ['link', 'delete', ifname]).catch(async (error: unknown) => {
      if ((await links()).some((link) => link.ifname === ifname)) throw error;
    });
  }
}

async function links(): Promise<{ ifname: string }[]> {
  return JSON.parse(await run('ip', ['-json', 'link', 'show']));
}

/** Every IPv4 network that the machine knows, as prefixes. */
export async function usedNetworks(): Promise<string[]> {
  const addresses: { addr_info: { local: string; prefixlen: number }[] }[] = JSON.parse(
    await run('ip', ['-json', '-4', 'address']),
  );
  const routes: { dst: string }[] = JSON.parse(await run('ip', ['-json', '-4', 'route', 'show', 'table', 'all']));
  return [
    ...addresses.flatMap(({ addr_info }) => addr_info.map(({ local, prefixlen }) => `${local}/${prefixlen}`)),
    ...routes.map(({ dst }) => dst).filter((dst) => /^\d/.test(dst)),
  ];
}
