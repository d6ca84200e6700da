import { randomUUID } from 'node:crypto';
import { ContainerConfig, NamespaceMode, PodSandboxConfig, SecurityProfile_ProfileType } from '../src/gen/cri.ts';
import { addressesOf } from '../src/network/address.ts';
import { Cri } from '../src/runtime/cri.ts';

export interface Pod {
  sandbox: string;
  container: string;
  name: string;
  address: string;
}

export interface PodOptions {
  name: string;
  image: string;
  command?: string[];
  /** Labels of the sandbox; a kubelet's pod has io.kubernetes.pod.uid. */
  labels?: Record<string, string>;
  mounts?: { hostPath: string; containerPath: string }[];
  portMappings?: { containerPort: number; hostPort: number }[];
  runtimeHandler?: string;
  /** Number of who runs it; root when left out. */
  user?: number;
  /** With the runtime's default seccomp profile, as a pod of type RuntimeDefault; else unconfined. */
  isConfined?: boolean;
  /** As kubelet does for every container that is not privileged. */
  hidesPaths?: boolean;
}

/** What kubelet asks to hide, and to protect, in every container that is not privileged. */
const MASKED = ['/proc/acpi', '/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/scsi', '/sys/firmware'];
const READ_ONLY = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/** Runs a pod of one container through CRI, as a kubelet would, and tells its address. */
export async function runPod(socket: string, nodePid: number, options: PodOptions): Promise<Pod> {
  const {
    name,
    image,
    command = [],
    labels = {},
    mounts = [],
    portMappings = [],
    runtimeHandler = '',
    user,
    isConfined = false,
    hidesPaths = true,
  } = options;
  using cri = new Cri(socket);
  const uid = randomUUID();
  const sandboxConfig = PodSandboxConfig.fromPartial({
    metadata: { name, namespace: 'default', uid, attempt: 0 },
    hostname: name,
    logDirectory: `/var/log/pods/default_${name}_${uid}`,
    labels,
    portMappings,
    linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
  });
  const sandbox = await cri.runSandbox(sandboxConfig, runtimeHandler);
  const config = ContainerConfig.fromPartial({
    metadata: { name, attempt: 0 },
    image: { image },
    command,
    logPath: `${name}/0.log`,
    mounts,
    envs: [{ key: 'GANTRY_TEST', value: Buffer.from('a value with spaces') }],
    linux: {
      securityContext: {
        namespaceOptions: { pid: NamespaceMode.CONTAINER },
        ...(hidesPaths && { maskedPaths: MASKED, readonlyPaths: READ_ONLY }),
        ...(user !== undefined && { runAsUser: { value: BigInt(user) } }),
        ...(isConfined && { seccomp: { profileType: SecurityProfile_ProfileType.RuntimeDefault } }),
      },
    },
  });
  const container = await cri.createContainer(sandbox, config, sandboxConfig);
  await cri.startContainer(container);
  return { sandbox, container, name, address: await podAddress(cri, sandbox, nodePid) };
}

/** Adds one more container to a pod's sandbox and starts it. */
export async function addContainer(
  socket: string,
  sandbox: string,
  name: string,
  image: string,
  command: string[],
  mounts: PodOptions['mounts'] = [],
) {
  using cri = new Cri(socket);
  const { config: sandboxConfig } = await cri.describeSandbox(sandbox);
  const config = ContainerConfig.fromPartial({
    metadata: { name, attempt: 0 },
    image: { image },
    command,
    logPath: `${name}/0.log`,
    mounts,
    linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
  });
  const container = await cri.createContainer(sandbox, config, sandboxConfig);
  await cri.startContainer(container);
  return container;
}

/** Of the sandbox's network, as this machine reaches it. */
export async function podAddress(cri: Cri, sandbox: string, nodePid: number): Promise<string> {
  const { pid } = await cri.describeSandbox(sandbox);
  // The PID is the node's; its /proc shows it to this machine.
  const [address] = await addressesOf(`/proc/${nodePid}/root/proc/${pid}/ns/net`);
  if (address === undefined) throw new Error(`sandbox ${sandbox} has no address`);
  return address.local;
}
