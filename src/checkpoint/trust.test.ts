import { describe, expect, test } from 'vitest';
import { ContainerConfig, NamespaceMode, PodSandboxConfig } from '../gen/cri.ts';
import { checkName, refuseDemands } from './trust.ts';

describe("a checkpoint's configuration", () => {
  const emptyDir = '/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/cache';

  test('of an ordinary container is taken', () => {
    const config = ContainerConfig.fromPartial({
      mounts: [{ hostPath: emptyDir, containerPath: '/cache' }],
      annotations: { 'io.kubernetes.container.hash': '1' },
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
    });
    expect(() => refuseDemands(config, PodSandboxConfig.fromPartial({ hostname: 'one' }))).not.toThrow();
  });

  test.each<[string, Parameters<typeof ContainerConfig.fromPartial>[0], RegExp]>([
    ["the node's files", { mounts: [{ hostPath: '/', containerPath: '/host' }] }, /the node's \/ at \/host/],
    ['a folder that only looks like an emptyDir', { mounts: [{ hostPath: `${emptyDir}/../../..` }] }, /the node's/],
    ['a device', { devices: [{ hostPath: '/dev/sda' }] }, /the device \/dev\/sda/],
    ['a device by CDI', { CDIDevices: [{ name: 'vendor.com/gpu=0' }] }, /vendor\.com/],
    ['privileges', { linux: { securityContext: { privileged: true } } }, /all privileges/],
    [
      'capabilities',
      { linux: { securityContext: { capabilities: { addCapabilities: ['SYS_ADMIN'] } } } },
      /the capability SYS_ADMIN/,
    ],
    [
      "the node's processes",
      { linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.NODE } } } },
      /another PID namespace/,
    ],
    ['a configuration of CRIU', { annotations: { 'org.criu.config': '/tmp/x' } }, /annotation org\.criu\.config/],
  ])('that asks for %s is refused', (_what, fields, says) => {
    expect(() => refuseDemands(ContainerConfig.fromPartial(fields), undefined)).toThrow(says);
  });

  test.each<[string, Parameters<typeof PodSandboxConfig.fromPartial>[0], RegExp]>([
    [
      "the node's network",
      { linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } } },
      /another network namespace/,
    ],
    ['sysctls', { linux: { sysctls: { 'kernel.shm_rmid_forced': '1' } } }, /the sysctl kernel\.shm_rmid_forced/],
  ])('whose sandbox asks for %s is refused', (_what, fields, says) => {
    const sandbox = PodSandboxConfig.fromPartial(fields);
    expect(() => refuseDemands(ContainerConfig.fromPartial({}), sandbox)).toThrow(says);
  });

  test.each(['../../etc', 'a/b', '', '.', 'a\0b'])('%j is no name', (name) => {
    expect(() => checkName(name)).toThrow(/no name of a container/);
  });
});
