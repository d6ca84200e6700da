import {
  PodSandboxState,
  type RunPodSandboxRequest,
  RuntimeServiceService as Runtime,
  UpdatePodSandboxResourcesRequest,
} from '../../../src/gen/cri.ts';
import { briefConfig, sandboxConfig } from './configs.ts';
import { one, twins, UNTIL_IN_ORDER } from './step.ts';
import type { Twin } from './twin.ts';

const run = (twin: Twin): RunPodSandboxRequest => ({ config: sandboxConfig(twin), runtimeHandler: '' });
const runBrief = (twin: Twin): RunPodSandboxRequest => ({ config: briefConfig(twin), runtimeHandler: 'crun' });
const runNowhere = (twin: Twin): RunPodSandboxRequest => ({ config: briefConfig(twin), runtimeHandler: 'none' });
const status =
  (verbose = false, name = 'sandbox') =>
  (twin: Twin) => ({ podSandboxId: twin.own(name), verbose });
const byPrefix = (twin: Twin) => ({ podSandboxId: twin.own('sandbox').slice(0, 12), verbose: false });
const byId = (twin: Twin) => ({ filter: { id: twin.own('sandbox'), state: undefined, labelSelector: {} } });
const byLabel = (app: string) => () => ({
  filter: { id: '', state: { state: PodSandboxState.SANDBOX_READY }, labelSelector: { app } },
});
const resources = (twin: Twin) =>
  UpdatePodSandboxResourcesRequest.fromPartial({ podSandboxId: twin.own('sandbox'), resources: { cpuShares: 512n } });

/** Sandboxes begin, are looked at and changed. */
export const sandboxSteps = [
  twins('RunPodSandbox', Runtime.runPodSandbox, run, {
    keep: (twin, { podSandboxId }) => twin.learn('sandbox', podSandboxId),
  }),
  twins("RunPodSandbox with another runtime, on the node's network", Runtime.runPodSandbox, runBrief, {
    keep: (twin, { podSandboxId }) => twin.learn('brief sandbox', podSandboxId),
  }),
  twins('RunPodSandbox with a runtime that does not exist', Runtime.runPodSandbox, runNowhere, { status: 'failure' }),
  twins('RunPodSandbox of a pod that runs', Runtime.runPodSandbox, run, { status: 'failure' }),
  twins('PodSandboxStatus of a new sandbox', Runtime.podSandboxStatus, status(), {
    keep: (twin, answer) => twin.learn('address', answer.status?.network?.ip ?? ''),
  }),
  twins('PodSandboxStatus of a new sandbox, verbose', Runtime.podSandboxStatus, status(true)),
  twins("PodSandboxStatus of a sandbox on the node's network", Runtime.podSandboxStatus, status(true, 'brief sandbox')),
  one('PodSandboxStatus', Runtime.podSandboxStatus, status()),
  one('PodSandboxStatus, verbose', Runtime.podSandboxStatus, status(true)),
  one('PodSandboxStatus by the beginning of an ID', Runtime.podSandboxStatus, byPrefix),
  one('ListPodSandbox', Runtime.listPodSandbox, () => ({ filter: undefined })),
  one('ListPodSandbox of one sandbox', Runtime.listPodSandbox, byId, { sameBytes: true }),
  one('ListPodSandbox of two sandboxes', Runtime.listPodSandbox, byLabel('twin'), {
    sameBytes: true,
    attempts: UNTIL_IN_ORDER,
  }),
  one('ListPodSandbox without a result', Runtime.listPodSandbox, byLabel('nobody'), { sameBytes: true }),
  one('StreamPodSandboxes', Runtime.streamPodSandboxes, () => ({ filter: undefined }), { since: 'later' }),
  twins('UpdatePodSandboxResources', Runtime.updatePodSandboxResources, resources, { since: 'later' }),
];
