import { createHash } from 'node:crypto';
import { EXIT, LabError } from './failure.ts';

/** What differs between the Debian releases that a node can run. */
export interface Suite {
  readonly name: string;
  /** debootstrap's script, when that of its own Debian release may not know this suite's name yet. */
  readonly script?: string;
  readonly packages: readonly string[];
  /** Format of containerd's configuration: 3 since containerd 2.0. */
  readonly containerdConfig: 2 | 3;
}

const packages = [
  'busybox-static',
  'catatonit',
  'containerd',
  'containernetworking-plugins',
  'criu',
  'crun',
  'iproute2',
  'iptables',
  'iputils-arping',
  'kmod',
  'nftables',
  'procps',
  'redis-server',
  'redis-tools',
  'rsync',
  'runc',
];

const suites: readonly Suite[] = [
  // crun opens libcriu when it runs; without it has no checkpoints.
  {
    name: 'forky',
    script: '/usr/share/debootstrap/scripts/sid',
    packages: [...packages, 'libcriu2'],
    containerdConfig: 3,
  },
  { name: 'trixie', script: '/usr/share/debootstrap/scripts/sid', packages, containerdConfig: 2 },
  { name: 'bookworm', packages, containerdConfig: 2 },
];

export const SUITE_NAMES = suites.map(({ name }) => name);

export function suiteNamed(name: string): Suite {
  const suite = suites.find((candidate) => candidate.name === name);
  if (suite === undefined) {
    throw new LabError(`there is no suite "${name}"`, {
      hint: `choose ${SUITE_NAMES.join(', ')}`,
      exitCode: EXIT.usage,
    });
  }
  return suite;
}

/** Changes whenever a root made earlier is no longer what would be made now. */
export function keyOf(suite: Suite): string {
  return createHash('sha256').update(JSON.stringify(suite)).digest('hex').slice(0, 16);
}
