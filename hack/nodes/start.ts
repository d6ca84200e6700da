import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { createCgroups } from './cgroups.ts';
import { ifPresent, LabError } from './failure.ts';
import { macOf, plugIn } from './network.ts';
import type { PlannedNode } from './node-files.ts';
import { REPO } from './paths.ts';
import type { LabRecord, NodeRecord } from './registry.ts';
import { type NetworkOptions, plansOf } from './subnet.ts';

const NAMESPACES = ['--cgroup', '--net', '--mount', '--uts', '--ipc', '--pid'];

/** Starts a node's PID 1 in namespaces of its own, which end with it, and gives it its uplink. */
export async function startNode(
  lab: Pick<LabRecord, 'name' | 'services' | 'subnet' | 'network' | 'ipv6'>,
  folder: string,
  root: string,
  node: PlannedNode,
  places: readonly number[],
  signal: AbortSignal,
): Promise<NodeRecord> {
  await createCgroups(lab.name, node.name);
  await rm(join(folder, 'pid'), { force: true });
  // The namespaces are entered after the cgroups: a cgroup namespace's root is where its first process was.
  const child = execa(
    'sh',
    [
      // The shell opens the log, as nothing may tie the node's output to this process.
      ...['-c', 'exec "$@" >>"$LAB_RUN/log/init.log" 2>&1', 'sh'],
      ...['sh', join(import.meta.dirname, 'join.sh'), `${lab.name}/${node.name}`],
      ...['unshare', ...NAMESPACES, '--fork', '--propagation', 'private'],
      ...['sh', join(import.meta.dirname, 'init.sh'), 'build'],
    ],
    {
      detached: true,
      cleanup: false,
      reject: false,
      stdio: 'ignore',
      cwd: '/',
      extendEnv: false,
      env: {
        PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        HOME: '/root',
        LANG: 'C.UTF-8',
        LAB_NODE: node.name,
        LAB_RUN: folder,
        LAB_ROOT: root,
        LAB_REPO: REPO,
        LAB_MAC: macOf(lab.name, node.place),
        LAB_SERVICES: lab.services.join(' '),
        ...networkOf(lab, node.place, places),
      },
    },
  );
  child.nodeChildProcess.unref();
  const pid = await pidOf(folder, child.pid, signal);
  await plugIn(lab.name, node.name, pid);
  return { name: node.name, address: node.address, pid };
}

/** What init.sh makes of a node's network: lists with spaces, routes as SUBNET=GATEWAY. Gateways and routes only when routed. */
function networkOf(lab: NetworkOptions & { subnet: string }, own: number, places: readonly number[]) {
  const plans = plansOf(lab);
  const isRouted = lab.network === 'routed';
  const length = (subnet: string) => subnet.split('/')[1];
  const others = isRouted ? places.filter((place) => place !== own) : [];
  const gateways = plans.map(({ pods }) => `${pods(own).gateway}/${length(pods(own).subnet)}`);
  return {
    LAB_ADDRESSES: plans.map(({ node, prefixLength }) => `${node(own)}/${prefixLength}`).join(' '),
    LAB_GATEWAYS: isRouted ? gateways.join(' ') : '',
    LAB_ROUTES: plans
      .flatMap(({ node, pods }) => others.map((place) => `${pods(place).subnet}=${node(place)}`))
      .join(' '),
  };
}

/** Waits for the PID that init.sh writes as its first act. */
async function pidOf(folder: string, starter: number | undefined, signal: AbortSignal): Promise<number> {
  for (let tries = 0; tries < 1000; tries++) {
    const text = await ifPresent(readFile(join(folder, 'pid'), 'utf8'), '');
    if (text !== '') return Number(text);
    await sleep(10, undefined, { signal });
    if (starter === undefined || (await ifPresent(readFile(`/proc/${starter}/stat`), undefined)) === undefined) break;
  }
  throw new LabError(
    `the node's PID 1 did not start:\n${await ifPresent(readFile(join(folder, 'log/init.log'), 'utf8'), '')}`,
  );
}
