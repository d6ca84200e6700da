import { RuntimeServiceService as Runtime } from '../../../src/gen/cri.ts';
import { one, twins } from './step.ts';
import type { Twin } from './twin.ts';

const container = (name: string) => (twin: Twin) => ({ containerId: twin.own(name) });
const sandbox = (name: string) => (twin: Twin) => ({ podSandboxId: twin.own(name) });
const stop = (twin: Twin) => ({ containerId: twin.own('container'), timeout: 0n });
const status = (verbose: boolean) => (twin: Twin) => ({ containerId: twin.own('container'), verbose });
const sandboxStatus = (twin: Twin) => ({ podSandboxId: twin.own('sandbox'), verbose: true });

/** Containers and sandboxes end. Stopping and removing may be repeated (the CRI's contract). */
export const endingSteps = [
  twins('StopContainer', Runtime.stopContainer, stop),
  twins('StopContainer of a container that has stopped', Runtime.stopContainer, stop),
  twins('ContainerStatus of a container that has stopped', Runtime.containerStatus, status(false)),
  twins('ContainerStatus of a container that has stopped, verbose', Runtime.containerStatus, status(true)),
  twins('StartContainer of a container that has stopped', Runtime.startContainer, container('container'), {
    status: 'failure',
  }),
  twins('ContainerStats of a container that has stopped', Runtime.containerStats, container('container'), {
    status: 'any',
  }),
  twins('RemoveContainer', Runtime.removeContainer, container('container')),
  twins('RemoveContainer of a container that was removed', Runtime.removeContainer, container('container')),
  twins('ContainerStatus of a container that was removed', Runtime.containerStatus, status(false), { status: 5 }),
  twins('RemoveContainer of a container that runs', Runtime.removeContainer, container('rich')),
  twins('StopPodSandbox', Runtime.stopPodSandbox, sandbox('sandbox')),
  twins('StopPodSandbox of a sandbox that has stopped', Runtime.stopPodSandbox, sandbox('sandbox')),
  twins('PodSandboxStatus of a sandbox that has stopped', Runtime.podSandboxStatus, sandboxStatus),
  twins('RemovePodSandbox', Runtime.removePodSandbox, sandbox('sandbox')),
  twins('RemovePodSandbox of a sandbox that was removed', Runtime.removePodSandbox, sandbox('sandbox')),
  twins('StopPodSandbox of a sandbox that was removed', Runtime.stopPodSandbox, sandbox('sandbox'), { status: 'any' }),
  twins('RemovePodSandbox of a sandbox that runs', Runtime.removePodSandbox, sandbox('brief sandbox')),
  one('ListContainers when all is removed', Runtime.listContainers, () => ({ filter: undefined }), { sameBytes: true }),
  one('ListPodSandbox when all is removed', Runtime.listPodSandbox, () => ({ filter: undefined }), { sameBytes: true }),
];
