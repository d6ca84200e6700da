import { RuntimeServiceService as Runtime } from '../../../src/gen/cri.ts';
import { one, twins, UNTIL_IN_ORDER, UNTIL_QUIET } from './step.ts';
import type { Twin } from './twin.ts';

const container = (name: string) => (twin: Twin) => ({ containerId: twin.own(name) });
const sandbox = (twin: Twin) => ({ podSandboxId: twin.own('sandbox') });
const measured = { attempts: UNTIL_QUIET };
const all = () => ({ filter: undefined });
const containersOf = (twin: Twin) => ({
  filter: { id: '', podSandboxId: twin.own('sandbox'), labelSelector: { app: 'rich' } },
});
const sandboxById = (twin: Twin) => ({ filter: { id: twin.own('sandbox'), labelSelector: {} } });
const sandboxesByLabel = (app: string) => () => ({ filter: { id: '', labelSelector: { app } } });

/** What is measured. */
export const statsSteps = [
  twins('ContainerStats of a container with many settings', Runtime.containerStats, container('rich'), measured),
  one('ContainerStats', Runtime.containerStats, container('container'), measured),
  one('ListContainerStats', Runtime.listContainerStats, all, measured),
  one('ListContainerStats of a sandbox, by label', Runtime.listContainerStats, containersOf, measured),
  one('StreamContainerStats', Runtime.streamContainerStats, all, { since: 'later' }),
  twins('PodSandboxStats of a sandbox with containers', Runtime.podSandboxStats, sandbox, measured),
  one('PodSandboxStats', Runtime.podSandboxStats, sandbox, measured),
  one('ListPodSandboxStats of one sandbox', Runtime.listPodSandboxStats, sandboxById, measured),
  one('ListPodSandboxStats of two sandboxes', Runtime.listPodSandboxStats, sandboxesByLabel('twin'), measured),
  // They have no cgroup. containerd 2.1 joins the two failures, and tells of that in grpc-status-details-bin.
  one('ListPodSandboxStats with two failures', Runtime.listPodSandboxStats, sandboxesByLabel('brief'), {
    status: 'failure',
    sameBytes: true,
    attempts: UNTIL_IN_ORDER,
  }),
  one('StreamPodSandboxStats', Runtime.streamPodSandboxStats, all, { since: 'later' }),
  one('ListPodSandboxMetrics', Runtime.listPodSandboxMetrics, () => ({}), { since: 'later' }),
  one('StreamPodSandboxMetrics', Runtime.streamPodSandboxMetrics, () => ({}), { since: 'later' }),
];
