import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { type Client, type ClientReadableStream, Metadata, type MethodDefinition, status } from '@grpc/grpc-js';
import {
  ContainerConfig,
  type ContainerEventResponse,
  ContainerState,
  type ContainerStatus,
  ContainerStatusRequest,
  CreateContainerRequest,
  ExecSyncRequest,
  ListContainersRequest,
  ListPodSandboxRequest,
  NamespaceMode,
  PodSandboxConfig,
  RemovePodSandboxRequest,
  RunPodSandboxRequest,
  RuntimeServiceService as Runtime,
  StopContainerRequest,
} from '../src/gen/cri.ts';
import { connectSocket, isServiceError, unary } from '../src/runtime/grpc.ts';

const INTERVAL_MS = 1000;
// Longer than kubelet's own, which is a second: ten operations at a time keep two cores busy.
const PROBE_TIMEOUT_SECONDS = 5n;
const CALL_MS = 120_000;

export interface KubeletPod {
  readonly name: string;
  readonly uid: string;
  readonly sandbox: string;
  readonly sandboxConfig: PodSandboxConfig;
  readonly config: ContainerConfig;
  /** The container that the kubelet thinks it runs. */
  container: string;
  restarts: number;
}

/**
 * What kubelet does to a runtime, on a relay's socket: it lists every second and follows events, asks for the status of
 * what has changed, probes by ExecSync, and starts again what does not run. Whatever is not as it left it is a change.
 */
export class Kubelet implements AsyncDisposable {
  readonly changes: string[] = [];
  readonly pods: KubeletPod[] = [];
  probes = 0;
  relists = 0;
  readonly #client: Client;
  readonly #intervalMs: number;
  readonly #known = new Map<string, ContainerStatus>();
  readonly #stop = new AbortController();
  readonly #loops: Promise<void>[] = [];
  #events: ClientReadableStream<ContainerEventResponse> | undefined;
  #since = performance.now();
  #sinceUnixMs = Date.now();

  /** @param intervalMs between two looks, and two probes */
  constructor(socket: string, intervalMs = INTERVAL_MS) {
    this.#intervalMs = intervalMs;
    this.#client = connectSocket(socket);
  }

  /** Begins to look. What the pods that it has run so far are is what they are to stay. */
  watch(): void {
    this.#since = performance.now();
    this.#sinceUnixMs = Date.now();
    this.#loops.push(
      this.#loop(() => this.#relist()),
      this.#loop(() => this.#probe()),
      this.#follow(),
    );
  }

  async runPod(
    name: string,
    image: string,
    command: string[],
    mounts: { hostPath: string; containerPath: string }[] = [],
  ): Promise<KubeletPod> {
    const uid = randomUUID();
    const labels = {
      'io.kubernetes.pod.name': name,
      'io.kubernetes.pod.namespace': 'default',
      'io.kubernetes.pod.uid': uid,
    };
    const sandboxConfig = PodSandboxConfig.fromPartial({
      metadata: { name, namespace: 'default', uid, attempt: 0 },
      hostname: name,
      logDirectory: `/var/log/pods/default_${name}_${uid}`,
      labels,
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
    });
    const { podSandboxId: sandbox } = await this.#call(
      Runtime.runPodSandbox,
      RunPodSandboxRequest.fromPartial({ config: sandboxConfig }),
    );
    const config = ContainerConfig.fromPartial({
      metadata: { name: 'main', attempt: 0 },
      image: { image },
      command,
      mounts,
      logPath: 'main/0.log',
      labels: { ...labels, 'io.kubernetes.container.name': 'main' },
      annotations: {
        'io.kubernetes.container.hash': 'abcd1234',
        'io.kubernetes.container.restartCount': '0',
        'io.kubernetes.pod.terminationGracePeriod': '5',
      },
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
    });
    const pod: KubeletPod = { name, uid, sandbox, sandboxConfig, config, container: '', restarts: 0 };
    await this.#start(pod);
    this.pods.push(pod);
    return pod;
  }

  /** As at the end of a pod: containers, then the sandbox; then all is gone. */
  async removePod(pod: KubeletPod): Promise<void> {
    this.pods.splice(this.pods.indexOf(pod), 1);
    this.#known.delete(pod.container);
    await this.stopContainer(pod.container, 1);
    await this.#call(Runtime.stopPodSandbox, { podSandboxId: pod.sandbox });
    await this.#call(Runtime.removeContainer, { containerId: pod.container });
    await this.#call(Runtime.removePodSandbox, RemovePodSandboxRequest.fromPartial({ podSandboxId: pod.sandbox }));
  }

  async stopContainer(containerId: string, graceSeconds: number): Promise<void> {
    await this.#call(
      Runtime.stopContainer,
      StopContainerRequest.fromPartial({ containerId, timeout: BigInt(graceSeconds) }),
    );
  }

  async exec(containerId: string, cmd: string[]): Promise<string> {
    const { stdout } = await this.#call(
      Runtime.execSync,
      ExecSyncRequest.fromPartial({ containerId, cmd, timeout: 5n }),
    );
    return Buffer.from(stdout).toString();
  }

  async reopenLog(containerId: string): Promise<void> {
    await this.#call(Runtime.reopenContainerLog, { containerId });
  }

  async statusOf(containerId: string): Promise<ContainerStatus | undefined> {
    return (await this.#call(Runtime.containerStatus, ContainerStatusRequest.fromPartial({ containerId }))).status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    this.#events?.cancel();
    await Promise.all(this.#loops);
    this.#client.close();
  }

  async #start(pod: KubeletPod): Promise<void> {
    const { sandbox: podSandboxId, sandboxConfig, config, restarts } = pod;
    const attempt: ContainerConfig = {
      ...config,
      metadata: { name: 'main', attempt: restarts, _unknownFields: {} },
      annotations: { ...config.annotations, 'io.kubernetes.container.restartCount': String(restarts) },
      logPath: `main/${restarts}.log`,
    };
    const request = CreateContainerRequest.fromPartial({ podSandboxId, config: attempt, sandboxConfig });
    const { containerId } = await this.#call(Runtime.createContainer, request);
    await this.#call(Runtime.startContainer, { containerId });
    pod.container = containerId;
    const now = await this.statusOf(containerId);
    if (now !== undefined) this.#known.set(containerId, now);
  }

  async #relist(): Promise<void> {
    const [{ items }, { containers }] = await Promise.all([
      this.#call(Runtime.listPodSandbox, ListPodSandboxRequest.fromPartial({})),
      this.#call(Runtime.listContainers, ListContainersRequest.fromPartial({})),
    ]);
    this.relists += 1;
    for (const pod of [...this.pods]) {
      if (!items.some(({ id }) => id === pod.sandbox)) this.#change(pod, 'the sandbox is not listed');
      const own = containers.filter(({ podSandboxId }) => podSandboxId === pod.sandbox);
      const ids = own.map(({ id }) => id);
      if (!isDeepStrictEqual(ids, [pod.container]))
        this.#change(pod, `its containers are [${ids.map((id) => id.slice(0, 8))}]`);
      const [listed] = own;
      const known = this.#known.get(pod.container);
      if (listed === undefined || known === undefined) continue;
      const { createdAt, labels, annotations, metadata, imageRef, image } = known;
      const same = { createdAt, labels, annotations, metadata, imageRef, image };
      const shown = Object.fromEntries(Object.keys(same).map((key) => [key, listed[key as keyof typeof listed]]));
      if (!isDeepStrictEqual(shown, same)) this.#change(pod, `is listed as ${text(shown)}, and was ${text(same)}`);
      await this.#sync(pod);
    }
  }

  /** What kubelet does when it looks at one pod. */
  async #sync(pod: KubeletPod): Promise<void> {
    const known = this.#known.get(pod.container);
    const now = await this.statusOf(pod.container);
    if (known === undefined || !this.pods.includes(pod)) return;
    if (!isDeepStrictEqual(now, known)) this.#change(pod, `has status ${text(now)}, and had ${text(known)}`);
    if (now?.state !== ContainerState.CONTAINER_EXITED) return;
    pod.restarts += 1;
    const before = pod.container;
    await this.#start(pod);
    await this.#call(Runtime.removeContainer, { containerId: before });
    this.#known.delete(before);
  }

  async #probe(): Promise<void> {
    await Promise.all(
      this.pods.map(async (pod) => {
        const request = ExecSyncRequest.fromPartial({
          containerId: pod.container,
          cmd: ['true'],
          timeout: PROBE_TIMEOUT_SECONDS,
        });
        try {
          const { exitCode } = await unary(this.#client, Runtime.execSync, request, {
            timeoutMs: CALL_MS,
            signal: this.#stop.signal,
          });
          this.probes += 1;
          if (exitCode !== 0) this.#change(pod, `its probe failed with exit code ${exitCode}`);
        } catch (error) {
          // kubelet takes no other error of the RPC for a result.
          const isResult = isServiceError(error) && error.code === status.DEADLINE_EXCEEDED;
          if (isResult && this.pods.includes(pod)) this.#change(pod, `its probe timed out: ${error.details}`);
        }
      }),
    );
  }

  async #follow(): Promise<void> {
    const { path, requestSerialize, responseDeserialize } = Runtime.getContainerEvents;
    while (!this.#stop.signal.aborted) {
      const stream = this.#client.makeServerStreamRequest(
        path,
        requestSerialize,
        responseDeserialize,
        {},
        new Metadata(),
      );
      this.#events = stream;
      stream.on('data', (event: ContainerEventResponse) => {
        // containerd keeps what nobody has listened to, and tells it to the next one.
        if (Number(event.createdAt / 1_000_000n) < this.#sinceUnixMs) return;
        const pod = this.pods.find(
          ({ container, sandbox }) => container === event.containerId || sandbox === event.podSandboxStatus?.id,
        );
        if (pod !== undefined)
          this.#change(pod, `event ${event.containerEventType} of ${event.containerId.slice(0, 8)}`);
      });
      stream.on('error', () => undefined);
      await new Promise((resolve) => stream.once('status', resolve));
      await sleep(200, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    }
  }

  #change({ name }: KubeletPod, what: string): void {
    this.changes.push(`+${((performance.now() - this.#since) / 1000).toFixed(1)} s ${name}: ${what}`);
  }

  async #loop(work: () => Promise<void>): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await work().catch((error: unknown) => {
        // A relay or a runtime that is restarted is no change of a pod; kubelet asks again.
        const isAway = isServiceError(error) && error.code === status.UNAVAILABLE;
        if (!isAway && !signal.aborted) this.changes.push(`a call failed: ${String(error)}`);
      });
      await sleep(this.#intervalMs, undefined, { signal }).catch(() => undefined);
    }
  }

  #call<Request, Response>(method: MethodDefinition<Request, Response>, request: Request): Promise<Response> {
    return unary(this.#client, method, request, { timeoutMs: CALL_MS });
  }
}

function text(value: unknown): string {
  return JSON.stringify(value, (key, field: unknown) =>
    key === '_unknownFields' ? undefined : typeof field === 'bigint' ? String(field) : field,
  );
}
