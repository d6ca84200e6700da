import type { Client, MethodDefinition } from '@grpc/grpc-js';
import { GantryError } from '../errors.ts';
import {
  type Container,
  ContainerConfig,
  ContainerState,
  type ContainerStatusResponse,
  CreateContainerRequest,
  type ExecSyncResponse,
  ImageServiceService,
  ImageStatusRequest,
  type ImageStatusResponse,
  ListContainersRequest,
  ListPodSandboxRequest,
  type PodSandbox,
  PodSandboxConfig,
  PodSandboxState,
  RunPodSandboxRequest,
  RuntimeServiceService as Runtime,
} from '../gen/cri.ts';
import { SLOT_LABEL } from '../proxy/slots/label.ts';
import { connectSocket, fromRuntime, unary } from './grpc.ts';
import { configFromInfo } from './verbose-info.ts';

const SHORT_MS = 10_000;
const LONG_MS = 120_000;

/** A container with all that moving it needs to know, read from the runtime's verbose status. */
export interface ContainerDetail {
  id: string;
  name: string;
  state: ContainerState;
  /** Of the container's init, in the node's PID namespace; 0 when it does not run. */
  pid: number;
  /** What the configuration names, and what it resolved to. */
  image: string;
  imageRef: string;
  snapshotter: string;
  snapshotKey: string;
  config: ContainerConfig;
  /** As the runtime has made it of the configuration and the image (OCI runtime specification). */
  spec: RuntimeSpec;
  sandbox: SandboxDetail;
}

/** What is read of it; whoever writes it down writes all of it. */
export interface RuntimeSpec {
  readonly annotations?: Readonly<Record<string, string>>;
  readonly process?: {
    readonly args?: readonly string[];
    readonly env?: readonly string[];
    readonly cwd?: string;
    readonly user?: { readonly uid?: number; readonly gid?: number; readonly additionalGids?: readonly number[] };
    readonly capabilities?: { readonly bounding?: readonly string[] };
    readonly rlimits?: readonly { readonly type: string; readonly hard: number }[];
    readonly noNewPrivileges?: boolean;
    readonly apparmorProfile?: string;
    readonly selinuxLabel?: string;
  };
  readonly linux?: { readonly seccomp?: unknown; readonly cgroupsPath?: string };
  readonly mounts?: readonly { readonly destination: string; readonly source?: string; readonly type?: string }[];
}

export interface SandboxDetail {
  id: string;
  state: PodSandboxState;
  /** Of the pause process; its network namespace is the pod's. */
  pid: number;
  runtimeHandler: string;
  annotations: Record<string, string>;
  config: PodSandboxConfig;
}

/** The calls of the CRI (kubernetes cri-api v1) that Gantry makes of its own, on one runtime or relay socket. */
export class Cri {
  readonly #client: Client;

  constructor(socket: string) {
    this.#client = connectSocket(socket);
  }

  close(): void {
    this.#client.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  version(signal?: AbortSignal) {
    return this.#call(Runtime.version, { version: '' }, 'asking the runtime for its version', signal);
  }

  async listContainers(signal?: AbortSignal): Promise<Container[]> {
    const request = ListContainersRequest.fromPartial({});
    return (await this.#call(Runtime.listContainers, request, 'listing containers', signal)).containers;
  }

  async listSandboxes(signal?: AbortSignal): Promise<PodSandbox[]> {
    const request = ListPodSandboxRequest.fromPartial({});
    return (await this.#call(Runtime.listPodSandbox, request, 'listing sandboxes', signal)).items;
  }

  /** Finds a ready sandbox by ID or unambiguous ID prefix. Errors: NOT_FOUND, NOT_RUNNING. */
  async findSandbox(wanted: string, signal?: AbortSignal): Promise<PodSandbox> {
    const found = (await this.listSandboxes(signal)).filter(({ id }) => wanted.length >= 3 && id.startsWith(wanted));
    const [sandbox] = found;
    if (sandbox === undefined || found.length > 1) {
      const what = found.length > 1 ? `${wanted} means ${found.length} sandboxes` : `no sandbox ${wanted} on this node`;
      throw new GantryError('NOT_FOUND', what, { hint: 'gantry ps lists the sandboxes' });
    }
    if (sandbox.state !== PodSandboxState.SANDBOX_READY) {
      throw new GantryError('NOT_RUNNING', `sandbox ${wanted} is not ready`);
    }
    return sandbox;
  }

  containerStatus(id: string, signal?: AbortSignal): Promise<ContainerStatusResponse> {
    return this.#call(
      Runtime.containerStatus,
      { containerId: id, verbose: true },
      `asking for container ${id}`,
      signal,
    );
  }

  async describe(id: string, signal?: AbortSignal): Promise<ContainerDetail> {
    const { status, info } = await this.containerStatus(id, signal);
    if (status === undefined) throw new GantryError('NOT_FOUND', `the runtime tells nothing of container ${id}`);
    const detail = parseInfo<{ sandboxID: string; pid: number; snapshotter: string; snapshotKey: string }>(info, id);
    return {
      id: status.id,
      name: status.metadata?.name ?? '',
      state: status.state,
      pid: detail.pid,
      image: status.image?.image ?? '',
      imageRef: status.imageRef,
      snapshotter: detail.snapshotter,
      snapshotKey: detail.snapshotKey,
      config: withoutSlot(configFromInfo(detail, ContainerConfig)),
      spec: (detail.runtimeSpec ?? {}) as RuntimeSpec,
      sandbox: await this.describeSandbox(detail.sandboxID, signal),
    };
  }

  async describeSandbox(id: string, signal?: AbortSignal): Promise<SandboxDetail> {
    const request = { podSandboxId: id, verbose: true };
    const { status, info } = await this.#call(Runtime.podSandboxStatus, request, `asking for sandbox ${id}`, signal);
    if (status === undefined) throw new GantryError('NOT_FOUND', `the runtime tells nothing of sandbox ${id}`);
    const detail = parseInfo<{ pid: number }>(info, id);
    return {
      id: status.id,
      state: status.state,
      pid: detail.pid,
      runtimeHandler: status.runtimeHandler,
      annotations: status.annotations,
      config: configFromInfo(detail, PodSandboxConfig),
    };
  }

  imageStatus(image: string, signal?: AbortSignal): Promise<ImageStatusResponse> {
    const request = ImageStatusRequest.fromPartial({ image: { image } });
    return this.#call(ImageServiceService.imageStatus, request, `asking for image ${image}`, signal);
  }

  async runSandbox(config: PodSandboxConfig, runtimeHandler: string, signal?: AbortSignal): Promise<string> {
    const request = RunPodSandboxRequest.fromPartial({ config, runtimeHandler });
    return (await this.#call(Runtime.runPodSandbox, request, 'making the sandbox', signal, LONG_MS)).podSandboxId;
  }

  async createContainer(
    sandboxId: string,
    config: ContainerConfig,
    sandboxConfig: PodSandboxConfig,
    signal?: AbortSignal,
  ) {
    const request = CreateContainerRequest.fromPartial({ podSandboxId: sandboxId, config, sandboxConfig });
    return (await this.#call(Runtime.createContainer, request, 'creating the container', signal, LONG_MS)).containerId;
  }

  async startContainer(id: string): Promise<void> {
    // Never with a caller's signal: when the call's context ends, the shim kills the runtime in the middle of its work.
    await this.#call(Runtime.startContainer, { containerId: id }, `starting container ${id}`, undefined, LONG_MS);
  }

  async stopContainer(id: string, graceSeconds: number): Promise<void> {
    const request = { containerId: id, timeout: BigInt(graceSeconds) };
    await this.#call(
      Runtime.stopContainer,
      request,
      `stopping container ${id}`,
      undefined,
      graceSeconds * 1000 + LONG_MS,
    );
  }

  /** Runs a command in a running container to its end; containerd ends it after the limit, in whole seconds. */
  execSync(id: string, command: readonly string[], limitMs: number): Promise<ExecSyncResponse> {
    const request = { containerId: id, cmd: [...command], timeout: BigInt(Math.ceil(limitMs / 1000)) };
    return this.#call(Runtime.execSync, request, `running ${command[0]} in ${id}`, undefined, limitMs + SHORT_MS);
  }

  /** As kubelet does once it has given the file of the container's log another name. */
  async reopenLog(id: string): Promise<void> {
    await this.#call(Runtime.reopenContainerLog, { containerId: id }, `reopening the log of container ${id}`);
  }

  async removeContainer(id: string): Promise<void> {
    await this.#call(Runtime.removeContainer, { containerId: id }, `removing container ${id}`, undefined, LONG_MS);
  }

  /** Stops and removes a sandbox with all its containers; one that is gone already is fine (CRI contract). */
  async removeSandbox(id: string): Promise<void> {
    await this.#call(Runtime.stopPodSandbox, { podSandboxId: id }, `stopping sandbox ${id}`, undefined, LONG_MS);
    await this.#call(Runtime.removePodSandbox, { podSandboxId: id }, `removing sandbox ${id}`, undefined, LONG_MS);
  }

  async #call<Request, Response>(
    method: MethodDefinition<Request, Response>,
    request: Request,
    doing: string,
    signal?: AbortSignal,
    timeoutMs = SHORT_MS,
  ): Promise<Response> {
    try {
      return await unary(this.#client, method, request, { timeoutMs, ...(signal === undefined ? {} : { signal }) });
    } catch (error) {
      throw fromRuntime(error, doing);
    }
  }
}

/** What is made from a container's configuration is not in that one's slot. */
function withoutSlot(config: ContainerConfig): ContainerConfig {
  const { [SLOT_LABEL]: _slot, ...labels } = config.labels;
  return { ...config, labels };
}

/** A configuration that names its image by the ID, as kubelet's do: the tag may mean another one by now, or elsewhere. */
export function pinned(
  config: ContainerConfig,
  { id, name }: { readonly id: string; readonly name: string },
): ContainerConfig {
  const { image } = config;
  if (image === undefined) return config;
  return { ...config, image: { ...image, image: id, userSpecifiedImage: image.userSpecifiedImage || name } };
}

/** Chooses by ID, unambiguous ID prefix or (running ones first) name. Errors: NOT_FOUND, IS_SANDBOX. */
export function chooseContainer(
  wanted: string,
  containers: readonly Container[],
  sandboxes: readonly PodSandbox[],
): Container {
  const byId = containers.filter(({ id }) => wanted.length >= 3 && id.startsWith(wanted));
  const named = containers.filter(({ metadata }) => metadata?.name === wanted);
  const running = named.filter(({ state }) => state === ContainerState.CONTAINER_RUNNING);
  const found = byId.length > 0 ? byId : running.length > 0 ? running : named;
  const [container] = found;
  if (container !== undefined && found.length === 1) return container;
  if (found.length > 1) {
    const ids = found.map(({ id }) => id.slice(0, 13)).join(', ');
    throw new GantryError('NOT_FOUND', `"${wanted}" means ${found.length} containers: ${ids}`, {
      hint: 'name one by its ID',
    });
  }
  if (sandboxes.some(({ id }) => wanted.length >= 3 && id.startsWith(wanted))) {
    throw new GantryError('IS_SANDBOX', `${wanted} is a sandbox (its pause container), not a container`, {
      hint: 'name a container of that sandbox: gantry ps lists them',
    });
  }
  throw new GantryError('NOT_FOUND', `no container ${wanted} on this node`, {
    hint: 'gantry ps lists the containers',
  });
}

function parseInfo<T>(info: Record<string, string>, id: string): T & { config: unknown; runtimeSpec?: unknown } {
  const text = info.info;
  if (text === undefined) {
    throw new GantryError('UNSUPPORTED', `the runtime gives no verbose status of ${id}`, {
      hint: 'Gantry needs containerd',
    });
  }
  return JSON.parse(text) as T & { config: unknown };
}
