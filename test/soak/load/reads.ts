import {
  ContainerState,
  ImageServiceService as Images,
  PodSandboxState,
  RuntimeServiceService as Runtime,
} from '../../../src/gen/cri.ts';
import type { Caller, Outcome } from '../caller.ts';
import type { Target } from '../target.ts';

export type Read = (caller: Caller) => Promise<Outcome<unknown>>;

/** The calls by which kubelet and people look at a node. Each knows what its answer must say. */
export function reads({ pods, images }: Pick<Target, 'pods' | 'images'>) {
  // Another pod each time, so that an answer to somebody else's question shows.
  let turn = 0;
  const nextPod = () => {
    const pod = pods[turn++ % pods.length];
    if (pod === undefined) throw new Error('there is no pod to ask about');
    return pod;
  };
  const version: Read = (caller) =>
    caller.call(
      Runtime.version,
      { version: '' },
      { fault: ({ runtimeName }) => unless(runtimeName === 'containerd', `the runtime is "${runtimeName}"`) },
    );
  const status: Read = (caller) =>
    caller.call(
      Runtime.status,
      { verbose: false },
      {
        fault: ({ status: runtime }) =>
          unless(
            runtime?.conditions.some((each) => each.type === 'RuntimeReady' && each.status) === true,
            'RuntimeReady is not true',
          ),
      },
    );
  const listSandboxes: Read = (caller) =>
    caller.call(
      Runtime.listPodSandbox,
      { filter: undefined },
      {
        fault: ({ items }) => {
          const ready = new Set(items.filter(isReady).map(({ id }) => id));
          return missing(
            pods.map(({ sandbox }) => sandbox),
            ready,
          );
        },
      },
    );
  const listContainers: Read = (caller) =>
    caller.call(
      Runtime.listContainers,
      { filter: undefined },
      {
        fault: ({ containers }) => {
          const running = new Set(containers.filter(isRunning).map(({ id }) => id));
          return missing(
            pods.map(({ container }) => container),
            running,
          );
        },
      },
    );
  const sandboxStatus: Read = (caller) => {
    const { sandbox: podSandboxId } = nextPod();
    return caller.call(
      Runtime.podSandboxStatus,
      { podSandboxId, verbose: true },
      { fault: ({ status: found }) => otherThan(podSandboxId, found?.id) },
    );
  };
  const containerStatus: Read = (caller) => {
    const { container: containerId } = nextPod();
    return caller.call(
      Runtime.containerStatus,
      { containerId, verbose: true },
      { fault: ({ status: found }) => otherThan(containerId, found?.id) },
    );
  };
  const imageFsInfo: Read = (caller) =>
    caller.call(
      Images.imageFsInfo,
      {},
      { fault: ({ imageFilesystems }) => unless(imageFilesystems.length > 0, 'no filesystem is told of') },
    );
  const listImages: Read = (caller) =>
    caller.call(
      Images.listImages,
      { filter: undefined },
      {
        fault: ({ images: found }) =>
          unless(
            found.some(({ repoTags }) => repoTags.includes(images.busybox)),
            `${images.busybox} is not among the images`,
          ),
      },
    );
  return {
    version,
    all: [
      listSandboxes,
      listContainers,
      sandboxStatus,
      containerStatus,
      version,
      status,
      imageFsInfo,
      listImages,
    ] as readonly Read[],
  };
}

export function unless(isSo: boolean, otherwise: string): string | undefined {
  return isSo ? undefined : otherwise;
}

function isReady({ state }: { state: PodSandboxState }): boolean {
  return state === PodSandboxState.SANDBOX_READY;
}

function isRunning({ state }: { state: ContainerState }): boolean {
  return state === ContainerState.CONTAINER_RUNNING;
}

function missing(wanted: readonly string[], found: ReadonlySet<string>): string | undefined {
  const lost = wanted.filter((id) => !found.has(id));
  return unless(lost.length === 0, `not listed as running: ${lost.join(', ')}`);
}

function otherThan(asked: string, answered: string | undefined): string | undefined {
  return unless(asked === answered, `asked about ${asked}, told about ${answered}`);
}
