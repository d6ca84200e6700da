import { access, chmod, copyFile, mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { cniConfig } from './cni-config.ts';
import { containerdConfig, type Runtime } from './containerd-config.ts';
import { ifPresent } from './failure.ts';
import { INSIDE, REPO } from './paths.ts';
import type { LabRecord } from './registry.ts';
import { type NetworkOptions, plansOf } from './subnet.ts';
import type { Suite } from './suites.ts';

/** A node as planned: there is no process yet. */
export interface PlannedNode {
  readonly name: string;
  readonly address: string;
  /** Its place among the nodes, from 1. */
  readonly place: number;
}

/** Port on which agents wait for each other. */
const PEER_PORT = 7440;

/**
 * Makes a node's folder on the host: `upper` is what its root has more than the cached one, the others are mounted or
 * used by init.sh. `pki` holds certificates when the agent is to run.
 */
export async function writeNodeFiles(
  folder: string,
  node: PlannedNode,
  nodes: readonly PlannedNode[],
  lab: Pick<LabRecord, 'subnet' | 'services' | 'network' | 'ipv6'>,
  suite: Suite,
  root: string,
  pki: string | undefined,
): Promise<void> {
  for (const name of ['upper', 'work', 'root', 'containerd', 'gantry', 'log']) {
    await mkdir(join(folder, name), { recursive: true });
  }
  const upper = join(folder, 'upper');
  const write = async (path: string, content: string) => {
    await mkdir(dirname(join(upper, path)), { recursive: true });
    await writeFile(join(upper, path), content);
  };
  const link = async (path: string, target: string) => {
    await mkdir(dirname(join(upper, path)), { recursive: true });
    await symlink(target, join(upper, path));
  };

  await write('etc/hostname', `${node.name}\n`);
  await write(
    'etc/hosts',
    ['127.0.0.1 localhost', ...nodes.map((each) => `${each.address} ${each.name}`), ''].join('\n'),
  );
  await write('etc/resolv.conf', '# A lab has no name server.\n');
  await write('etc/cni/net.d/10-gantry.conflist', cniConfig(lab, node.place));
  await write('etc/containerd/config.toml', containerdConfig(suite, await runtimesOf(root)));
  for (const name of ['gantry-runc', 'gantry-crun']) {
    await link(`usr/local/lib/gantry/${name}`, '/opt/gantry/src/runtime/oci-hook.sh');
  }
  await link('usr/local/bin/gantry', '/opt/gantry/bin/gantry');
  await write('etc/gantry/agent.json', agentConfig(node, nodes, lab));
  if (pki === undefined) return;
  await mkdir(join(upper, 'etc/gantry/pki'));
  await copyFile(join(pki, 'ca.crt'), join(upper, 'etc/gantry/pki/ca.crt'));
  await copyFile(join(pki, node.name, 'node.crt'), join(upper, 'etc/gantry/pki/node.crt'));
  await copyFile(join(pki, node.name, 'node.key'), join(upper, 'etc/gantry/pki/node.key'));
  await chmod(join(upper, 'etc/gantry/pki/node.key'), 0o600);
}

/**
 * Both runtimes that Gantry drives go through its hook, as on a real node. `plain` stands for those that it does not drive,
 * and that have no checkpoints: a runc without the hook.
 */
async function runtimesOf(root: string): Promise<Runtime[]> {
  const hooked = await exists(join(REPO, 'src/runtime/oci-hook.sh'));
  const runtimes: Runtime[] = [{ name: 'plain', binary: 'runc' }];
  for (const name of ['runc', 'crun']) {
    if (!(await exists(join(root, 'usr/bin', name))) && !(await exists(join(root, 'usr/sbin', name)))) continue;
    runtimes.push({ name, binary: hooked ? `/usr/local/lib/gantry/gantry-${name}` : name });
  }
  return runtimes;
}

async function exists(path: string): Promise<boolean> {
  return ifPresent(
    access(path).then(() => true),
    false,
  );
}

function agentConfig(
  node: PlannedNode,
  nodes: readonly PlannedNode[],
  lab: NetworkOptions & { subnet: string },
): string {
  const peers = nodes
    .filter(({ name }) => name !== node.name)
    .map(({ name, address }) => [name, `${address}:${PEER_PORT}`]);
  const config = {
    node: node.name,
    runtimeSocket: INSIDE.runtimeSocket,
    agentSocket: INSIDE.agentSocket,
    peerListen: `${node.address}:${PEER_PORT}`,
    peers: Object.fromEntries(peers) as Record<string, string>,
    tls: { ca: '/etc/gantry/pki/ca.crt', cert: '/etc/gantry/pki/node.crt', key: '/etc/gantry/pki/node.key' },
    stateDir: '/var/lib/gantry',
    imageDir: '/run/gantry/images',
    ipamDir: '/var/lib/cni/networks/gantry',
    metrics: 'unix:/run/gantry/metrics.sock',
    ...(lab.network === 'routed' ? { identity: { provider: 'route', nextHops: nextHops(node, nodes, lab) } } : {}),
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}

/** The peers' IPv6 addresses; their IPv4 ones are those of `peers`. */
function nextHops(own: PlannedNode, nodes: readonly PlannedNode[], lab: NetworkOptions & { subnet: string }) {
  const [, ipv6] = plansOf(lab);
  const peers = ipv6 === undefined ? [] : nodes.filter(({ name }) => name !== own.name);
  return Object.fromEntries(peers.map(({ name, place }) => [name, [ipv6?.node(place)]]));
}
