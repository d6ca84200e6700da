import { randomUUID } from 'node:crypto';
import { ContainerConfig, NamespaceMode, PodSandboxConfig } from '../../../src/gen/cri.ts';
import { Cri } from '../../../src/runtime/cri.ts';
import { labDown, labUp } from '../../lab.ts';

const LAB = 't-bench-relay';
// More at once only wait for each other, on two cores.
const AT_ONCE = 4;

/** A node with a real containerd, and pods in it: more pods and containers than kubelet's default of 110 each has. */
export class BenchNode implements AsyncDisposable {
  readonly runtimeSocket: string;
  readonly sandboxes: string[] = [];
  readonly containers: string[] = [];
  readonly #image: string;

  private constructor(runtimeSocket: string, image: string) {
    this.runtimeSocket = runtimeSocket;
    this.#image = image;
  }

  static async up(): Promise<BenchNode> {
    const lab = await labUp({ name: LAB, nodes: 1, services: ['containerd'] });
    return new BenchNode(lab.nodes[0]?.runtimeSocket ?? '', lab.images.busybox);
  }

  /** Runs pods on the host's network, which is quicker to make, and creates containers in them, which need not start. */
  async populate(pods: number, containers: number, signal: AbortSignal): Promise<void> {
    using cri = new Cri(this.runtimeSocket);
    const configs: PodSandboxConfig[] = [];
    await inParallel(pods, async (index) => {
      signal.throwIfAborted();
      const name = `bench-${String(index).padStart(3, '0')}`;
      const config = PodSandboxConfig.fromPartial({
        metadata: { name, namespace: 'default', uid: randomUUID(), attempt: 0 },
        labels: { app: name, 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.namespace': 'default' },
        linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } } },
      });
      configs[index] = config;
      this.sandboxes[index] = await cri.runSandbox(config, '');
    });
    await inParallel(containers, async (index) => {
      signal.throwIfAborted();
      const pod = index % pods;
      const sandboxConfig = configs[pod];
      if (sandboxConfig === undefined) return;
      const config = ContainerConfig.fromPartial({
        metadata: { name: `container-${index}`, attempt: 0 },
        image: { image: this.#image },
        command: ['sleep', '1000000'],
        labels: { 'io.kubernetes.container.name': `container-${index}`, 'io.kubernetes.pod.name': `bench-${pod}` },
        annotations: { 'io.kubernetes.container.hash': 'a1b2c3d4', 'io.kubernetes.container.restartCount': '0' },
        linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } } },
      });
      this.containers[index] = await cri.createContainer(this.sandboxes[pod] ?? '', config, sandboxConfig);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await labDown(LAB);
  }
}

async function inParallel(count: number, task: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) {
      const index = next;
      next += 1;
      await task(index);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}
