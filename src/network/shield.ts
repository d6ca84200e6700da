import { runInNetwork } from '../runtime/program.ts';

const TABLE = 'table netdev gantry_shield';

/**
 * Shuts a pod's network in both directions, ARP and neighbour discovery included, and leaves link, addresses and
 * sockets as they are. One atomic nftables transaction; shutting twice is shutting once.
 *
 * The source's kernel would otherwise acknowledge data that was never dumped, and the target's would answer for
 * sockets that are not restored yet. Loopback stays open.
 */
export async function shut(netns: string, device = 'eth0'): Promise<void> {
  const chain = (name: string, hook: string) =>
    `chain ${name} { type filter hook ${hook} device "${device}" priority -500; policy drop; };`;
  await runInNetwork(netns, 'nft', ['-f', '-'], {
    input: `${TABLE}\ndelete ${TABLE}\n${TABLE} { ${chain('in', 'ingress')} ${chain('out', 'egress')} }\n`,
  });
}

/** Opens the door again; opening an open one is fine. */
export async function open(netns: string): Promise<void> {
  await runInNetwork(netns, 'nft', ['-f', '-'], { input: `${TABLE}\ndelete ${TABLE}\n` });
}
