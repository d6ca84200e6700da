import {
  type ContainerConfig,
  ContainerState,
  type CreateContainerRequest,
  RuntimeServiceService as Runtime,
  UpdateContainerResourcesRequest,
} from '../../../src/gen/cri.ts';
import { containerConfig, richConfig, sandboxConfig } from './configs.ts';
import { one, twins, UNTIL_IN_ORDER } from './step.ts';
import type { Twin } from './twin.ts';

const create =
  (config: ContainerConfig) =>
  (twin: Twin): CreateContainerRequest => ({
    podSandboxId: twin.own('sandbox'),
    config,
    sandboxConfig: sandboxConfig(twin),
  });
const of = (name: string) => (twin: Twin) => ({ containerId: twin.own(name) });
const status =
  (name: string, verbose = false) =>
  (twin: Twin) => ({ containerId: twin.own(name), verbose });
const run = (twin: Twin) => ({ containerId: twin.own('container'), cmd: ['true'], timeout: 0n });
const nothing = containerConfig('broken', { command: ['/no/such "command"'] });
const noImage = containerConfig('other', { image: { image: 'gantry.lab/none:1' } });

/** Containers begin. */
export const startSteps = [
  twins('CreateContainer', Runtime.createContainer, create(containerConfig('main')), {
    keep: (twin, { containerId }) => twin.learn('container', containerId),
  }),
  twins('CreateContainer with many settings', Runtime.createContainer, create(richConfig), {
    keep: (twin, { containerId }) => twin.learn('rich', containerId),
  }),
  twins('CreateContainer with a command that does not exist', Runtime.createContainer, create(nothing), {
    keep: (twin, { containerId }) => twin.learn('broken', containerId),
  }),
  twins('CreateContainer under a name that is taken', Runtime.createContainer, create(containerConfig('main')), {
    status: 'failure',
  }),
  twins('CreateContainer of an image that is not there', Runtime.createContainer, create(noImage), { status: 5 }),
  twins('ContainerStatus of a container that has not started', Runtime.containerStatus, status('container')),
  twins('ExecSync in a container that has not started', Runtime.execSync, run, { status: 'failure' }),
  twins('StartContainer', Runtime.startContainer, of('container')),
  twins('StartContainer with many settings', Runtime.startContainer, of('rich')),
  twins('StartContainer of a command that does not exist', Runtime.startContainer, of('broken'), { status: 'failure' }),
  twins('StartContainer of a container that runs', Runtime.startContainer, of('container'), { status: 'failure' }),
];

const filter = { id: '', state: undefined, podSandboxId: '', labelSelector: {} };
const byId = (twin: Twin) => ({ filter: { ...filter, id: twin.own('container') } });
const byPrefix = (twin: Twin) => ({ containerId: twin.own('container').slice(0, 12), verbose: false });
const byLabel = (app: string) => () => ({ filter: { ...filter, labelSelector: { app } } });
const inState = (state: ContainerState) => (twin: Twin) => ({
  filter: { ...filter, state: { state }, podSandboxId: twin.own('sandbox') },
});
const { CONTAINER_CREATED, CONTAINER_RUNNING } = ContainerState;

/** Containers are looked at. */
export const containerSteps = [
  twins('ContainerStatus of a container that runs', Runtime.containerStatus, status('container')),
  twins('ContainerStatus of a container that runs, verbose', Runtime.containerStatus, status('container', true)),
  twins('ContainerStatus with many settings', Runtime.containerStatus, status('rich')),
  twins('ContainerStatus with many settings, verbose', Runtime.containerStatus, status('rich', true)),
  twins('ContainerStatus of a container that could not start', Runtime.containerStatus, status('broken', true)),
  one('ContainerStatus', Runtime.containerStatus, status('container'), { sameBytes: true }),
  one('ContainerStatus, verbose', Runtime.containerStatus, status('container', true), { sameBytes: true }),
  one('ContainerStatus by the beginning of an ID', Runtime.containerStatus, byPrefix, { sameBytes: true }),
  one('PodSandboxStatus of a sandbox with containers', Runtime.podSandboxStatus, (twin) => ({
    podSandboxId: twin.own('sandbox'),
    verbose: false,
  })),
  one('ListContainers', Runtime.listContainers, () => ({ filter: undefined })),
  one('ListContainers of one container', Runtime.listContainers, byId, { sameBytes: true }),
  one('ListContainers of two containers', Runtime.listContainers, byLabel('main'), {
    sameBytes: true,
    attempts: UNTIL_IN_ORDER,
  }),
  one('ListContainers with many settings', Runtime.listContainers, byLabel('rich')),
  one('ListContainers of a sandbox, by state', Runtime.listContainers, inState(CONTAINER_RUNNING)),
  one('ListContainers without a result', Runtime.listContainers, inState(CONTAINER_CREATED), { sameBytes: true }),
  one('StreamContainers', Runtime.streamContainers, () => ({ filter: undefined }), { since: 'later' }),
];

const resources = (linux: { cpuShares?: bigint; memoryLimitInBytes?: bigint; cpusetCpus?: string }) => (twin: Twin) =>
  UpdateContainerResourcesRequest.fromPartial({ containerId: twin.own('rich'), linux });
const more = resources({ cpuShares: 256n, memoryLimitInBytes: 134_217_728n });
const impossible = resources({ cpusetCpus: '999' });

/** Containers are changed. */
export const changeSteps = [
  twins('UpdateContainerResources', Runtime.updateContainerResources, more),
  twins('UpdateContainerResources to what the kernel refuses', Runtime.updateContainerResources, impossible, {
    status: 'failure',
  }),
  twins('ContainerStatus of a changed container', Runtime.containerStatus, status('rich', true)),
  twins('ReopenContainerLog', Runtime.reopenContainerLog, of('container')),
  twins('ReopenContainerLog of a container that could not start', Runtime.reopenContainerLog, of('broken'), {
    status: 'failure',
  }),
];
