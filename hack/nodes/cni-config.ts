import { type NetworkOptions, plansOf } from './subnet.ts';

/**
 * The pods' network: every pod is a port of cni0, the bridge that init.sh has made. Flat, each node gives out its own part
 * of the one subnet, so an address may move to another node and stays reachable. Routed, each has a subnet of its own.
 */
export function cniConfig(lab: NetworkOptions & { subnet: string }, place: number): string {
  const plans = plansOf(lab);
  const bridge = {
    type: 'bridge',
    bridge: 'cni0',
    isGateway: lab.network === 'routed',
    ipMasq: false,
    ipam: {
      type: 'host-local',
      ranges: plans.map(({ pods }) => [pods(place)]),
      routes: plans.map(({ pods }, index) => ({ dst: index === 0 ? '0.0.0.0/0' : '::/0', gw: pods(place).gateway })),
    },
  };
  return JSON.stringify({ cniVersion: '1.0.0', name: 'gantry', plugins: [bridge] }, null, 2);
}
