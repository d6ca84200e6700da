import { IMAGES } from './images.ts';
import type { Suite } from './suites.ts';

/** A runtime handler of containerd: its name in the CRI and the program that containerd's shim starts for it. */
export interface Runtime {
  readonly name: string;
  readonly binary: string;
}

/** containerd's configuration file (containerd's docs/cri/config.md). */
export function containerdConfig(suite: Suite, runtimes: readonly Runtime[]): string {
  return suite.containerdConfig === 3 ? version3(runtimes) : version2(runtimes);
}

// restrict_oom_score_adj: without CAP_SYS_RESOURCE the pause container's negative score cannot be set, and every
// sandbox would fail.

function version3(runtimes: readonly Runtime[]): string {
  const cri = "plugins.'io.containerd.cri.v1.runtime'";
  return `version = 3

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '${IMAGES.pause}'

[${cri}]
  restrict_oom_score_adj = true
[${cri}.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '/etc/cni/net.d'
[${cri}.containerd]
  default_runtime_name = 'runc'
${runtimes.map((runtime) => runtimeTable(`${cri}.containerd`, runtime)).join('')}`;
}

function version2(runtimes: readonly Runtime[]): string {
  const cri = `plugins.'io.containerd.grpc.v1.cri'`;
  return `version = 2

[${cri}]
  sandbox_image = '${IMAGES.pause}'
  restrict_oom_score_adj = true
[${cri}.cni]
  bin_dir = '/usr/lib/cni'
  conf_dir = '/etc/cni/net.d'
[${cri}.containerd]
  snapshotter = 'overlayfs'
  default_runtime_name = 'runc'
${runtimes.map((runtime) => runtimeTable(`${cri}.containerd`, runtime)).join('')}`;
}

function runtimeTable(parent: string, { name, binary }: Runtime): string {
  return `[${parent}.runtimes.${name}]
  runtime_type = 'io.containerd.runc.v2'
[${parent}.runtimes.${name}.options]
  BinaryName = '${binary}'
  SystemdCgroup = false
`;
}
