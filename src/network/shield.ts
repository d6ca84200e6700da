import { runInNetwork } from '../runtime/program.ts';

const TABLES = ['table netdev gantry_shield', 'table inet gantry_shield'];
/** Deletes the tables, also where there are none. */
const DELETE = TABLES.map((table) => `${table}\ndelete ${table}\n`).join('');

/**
 * Shuts a pod's network in both directions, ARP and neighbour discovery included, and leaves link, addresses and
 * sockets as they are. One atomic nftables transaction; shutting twice is shutting once.
 *
 * The source's kernel would otherwise acknowledge data that was never dumped, and the target's would answer for
 * sockets that are not restored yet. Loopback stays open, unless containers that talk over it come back one by one: the
 * first would hear that there is nobody.
 *
 * What TCP sends is dropped once more before it reaches the device: a drop there is a congested queue to TCP (net_xmit
 * codes), which then probes every half second instead of ever more slowly (tcp_send_probe0), and after 15 probes, less
 * than eight seconds, it ends the connection. Only TCP: whoever sends a datagram that is dropped there gets EPERM, and may end;
 * at the device it is lost without a word.
 */
export async function shut(netns: string, device = 'eth0', options: { loopback?: boolean } = {}): Promise<void> {
  const loopback = options.loopback === true ? 'oifname "lo" drop;' : '';
  const chain = (name: string, hook: string) =>
    `chain ${name} { type filter hook ${hook} device "${device}" priority -500; policy drop; };`;
  const rules = [
    `table netdev gantry_shield { ${chain('in', 'ingress')} ${chain('out', 'egress')} }`,
    `table inet gantry_shield { chain out { type filter hook output priority -500; oifname "${device}" meta l4proto tcp drop; ${loopback} }; }`,
  ];
  await runInNetwork(netns, 'nft', ['-f', '-'], { input: `${DELETE}${rules.join('\n')}\n` });
}

/** Opens the door again; opening an open one is fine. */
export async function open(netns: string): Promise<void> {
  await runInNetwork(netns, 'nft', ['-f', '-'], { input: DELETE });
}
