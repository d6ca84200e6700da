import { podRange } from './subnet.ts';

/**
 * The pods' network: every pod is a port of cni0, the bridge that init.sh has made. Each node gives out its own part
 * of the one subnet, so an address may move to another node and stays reachable.
 */
export function cniConfig(subnet: string, nodeAddress: string): string {
  const bridge = {
    type: 'bridge',
    bridge: 'cni0',
    isGateway: false,
    ipMasq: false,
    ipam: {
      type: 'host-local',
      ranges: [[{ subnet, ...podRange(nodeAddress), gateway: nodeAddress }]],
      routes: [{ dst: '0.0.0.0/0', gw: nodeAddress }],
    },
  };
  return JSON.stringify({ cniVersion: '1.0.0', name: 'gantry', plugins: [bridge] }, null, 2);
}
