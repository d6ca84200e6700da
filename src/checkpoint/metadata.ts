import { arch, release } from 'node:os';
import type { Node } from '../agent/node.ts';
import { type Manifest, VERSION } from '../archive/layout.ts';
import { ContainerConfig, type ContainerStatus, PodSandboxConfig } from '../gen/cri.ts';
import { addressesOf } from '../network/address.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { criuVersion } from '../runtime/criu.ts';
import { networkOf } from './freeze.ts';
import { volumesOf } from './volumes.ts';

/** JSON.rawJSON, which the types of the language do not have yet: nanoseconds are more than a number can hold. */
const raw = (value: bigint) => (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(String(value));

/** Times of the CRI, nanoseconds since 1970, as Go writes them. */
function time(nanoseconds: bigint): string {
  return new Date(Number(nanoseconds / 1_000_000n)).toISOString();
}

/** `config.dump`: what Podman, CRI-O and containerd say of the container (ContainerConfig of checkpointctl's metadata). */
export function configDump(container: ContainerDetail, { createdAt }: ContainerStatus): string {
  return text({
    id: container.id,
    name: container.name,
    rootfsImage: container.image,
    rootfsImageName: container.image,
    rootfsImageRef: container.imageRef,
    runtime: 'io.containerd.runc.v2',
    createdTime: time(createdAt),
    checkpointedTime: new Date().toISOString(),
    restoredTime: '0001-01-01T00:00:00Z',
    restored: false,
  });
}

/** `status.dump`: runtime.v1.ContainerStatus as Go's JSON has it. */
export function statusDump(status: ContainerStatus): string {
  return text({
    id: status.id,
    metadata: { name: status.metadata?.name, attempt: status.metadata?.attempt },
    state: status.state,
    created_at: raw(status.createdAt),
    started_at: raw(status.startedAt),
    image: { image: status.image?.image },
    image_ref: status.imageRef,
    labels: status.labels,
    annotations: status.annotations,
    log_path: status.logPath,
  });
}

/** `status`: what containerd itself keeps of a container that runs. */
export function containerdStatus(container: ContainerDetail, { createdAt, startedAt }: ContainerStatus): string {
  return text({
    Version: 'v1',
    Pid: container.pid,
    CreatedAt: raw(createdAt),
    StartedAt: raw(startedAt),
    FinishedAt: 0,
    ExitCode: 0,
    Reason: '',
    Message: '',
  });
}

export async function manifestOf(
  node: Node,
  container: ContainerDetail,
  dumped: Pick<Manifest, 'tcp' | 'processes' | 'parent' | 'cold'> & { readonly imageId: string },
): Promise<Omit<Manifest, 'members'>> {
  const { sandbox } = container;
  const { tcp, processes, imageId, parent, cold } = dumped;
  return {
    version: VERSION,
    created: new Date().toISOString(),
    node: { name: node.config.node, architecture: arch(), kernel: release() },
    criu: cold === true ? '' : await criuVersion(),
    container: {
      id: container.id,
      name: container.name,
      config: Buffer.from(ContainerConfig.encode(container.config).finish()).toString('base64'),
    },
    sandbox: {
      id: sandbox.id,
      name: sandbox.config.metadata?.name ?? '',
      namespace: sandbox.config.metadata?.namespace ?? '',
      runtimeHandler: sandbox.runtimeHandler,
      config: Buffer.from(PodSandboxConfig.encode(sandbox.config).finish()).toString('base64'),
      addresses: (await addressesOf(networkOf(sandbox.pid))).map(({ local }) => local),
    },
    image: { name: container.image, id: imageId },
    volumes: volumesOf(container.config),
    tcp,
    processes,
    ...(parent !== undefined && { parent }),
    ...(cold === true && { cold }),
  };
}

function text(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
