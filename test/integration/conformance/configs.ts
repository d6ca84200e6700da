import { IMAGES } from '../../../hack/nodes/images.ts';
import { ContainerConfig, MountPropagation, NamespaceMode, PodSandboxConfig } from '../../../src/gen/cri.ts';
import type { Twin } from './twin.ts';

// One label and one annotation: Go encodes a map in another order each time, and bytes are to be compared.
export function sandboxConfig(twin: Twin): PodSandboxConfig {
  return PodSandboxConfig.fromPartial({
    metadata: { name: 'twin', namespace: 'default', uid: twin.own('uid'), attempt: 1 },
    hostname: 'twin',
    logDirectory: `/var/log/pods/default_twin_${twin.own('uid')}`,
    dnsConfig: { servers: ['192.0.2.1'], searches: ['example.test'], options: ['ndots:5'] },
    labels: { app: 'twin' },
    annotations: { 'example.test/sandbox': 'Ä "quoted" text' },
    linux: { cgroupParent: `/pods/${twin.own('uid')}`, sysctls: { 'net.ipv4.ip_unprivileged_port_start': '81' } },
  });
}

/** On the node's network, and in no cgroup of a pod: without that there are no statistics of it. */
export function briefConfig(twin: Twin): PodSandboxConfig {
  return PodSandboxConfig.fromPartial({
    metadata: { name: 'brief', namespace: 'default', uid: twin.own('uid'), attempt: 0 },
    labels: { app: 'brief' },
    linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } },
  });
}

export function containerConfig(name: string, more: Parameters<typeof ContainerConfig.fromPartial>[0] = {}) {
  return ContainerConfig.fromPartial({
    metadata: { name, attempt: 2 },
    image: { image: IMAGES.busybox },
    // A shell, not a sleep: CRIU lets that return early.
    command: ['sh', '-c'],
    args: ['while :; do sleep 1; done'],
    workingDir: '/tmp',
    envs: [{ key: 'TWIN', value: Buffer.from('a value with spaces') }],
    labels: { app: name },
    annotations: { 'example.test/container': name },
    logPath: `${name}.log`,
    ...more,
  });
}

/** With something in as many fields as the lab's nodes allow. */
export const richConfig: ContainerConfig = containerConfig('rich', {
  mounts: [
    {
      containerPath: '/srv/hosts',
      hostPath: '/etc/hosts',
      readonly: true,
      propagation: MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
    },
  ],
  devices: [{ containerPath: '/dev/nothing', hostPath: '/dev/null', permissions: 'rwm' }],
  labels: { app: 'rich', tier: 'back', release: '1' },
  annotations: { one: '1', two: '2', three: '3' },
  linux: {
    resources: { cpuPeriod: 100_000n, cpuQuota: 50_000n, cpuShares: 512n, memoryLimitInBytes: 67_108_864n },
    securityContext: {
      capabilities: { addCapabilities: ['NET_ADMIN'], dropCapabilities: ['MKNOD'] },
      runAsUser: { value: 65_534n },
      runAsGroup: { value: 65_534n },
      supplementalGroups: [7n, 1000n],
      noNewPrivs: true,
      maskedPaths: ['/proc/kcore'],
      readonlyPaths: ['/proc/sys'],
    },
  },
});
