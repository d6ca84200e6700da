/**
 * The one table of the CRI (kubernetes cri-api v1, up to 0.37): what each method is to the relay, and which message
 * fields hold IDs. Nothing is forwarded by it: a method it does not know passes as bytes like any other. A test walks
 * the upstream definition and fails on what is not classified here.
 */

/** How a person thinks of a call, which decides how loudly it is logged. */
export type Kind = 'read' | 'change' | 'interactive' | 'watch';

export interface Method {
  readonly service: 'RuntimeService' | 'ImageService';
  readonly kind: Kind;
  /** Answers with a stream of messages. */
  readonly streams: boolean;
}

const runtime = (kind: Kind, streams = false): Method => ({ service: 'RuntimeService', kind, streams });
const image = (kind: Kind, streams = false): Method => ({ service: 'ImageService', kind, streams });

export const METHODS: Readonly<Record<string, Method>> = {
  Version: runtime('read'),
  RunPodSandbox: runtime('change'),
  StopPodSandbox: runtime('change'),
  RemovePodSandbox: runtime('change'),
  PodSandboxStatus: runtime('read'),
  ListPodSandbox: runtime('read'),
  StreamPodSandboxes: runtime('read', true),
  CreateContainer: runtime('change'),
  StartContainer: runtime('change'),
  StopContainer: runtime('change'),
  RemoveContainer: runtime('change'),
  ListContainers: runtime('read'),
  StreamContainers: runtime('read', true),
  ContainerStatus: runtime('read'),
  UpdateContainerResources: runtime('change'),
  ReopenContainerLog: runtime('change'),
  ExecSync: runtime('interactive'),
  Exec: runtime('interactive'),
  Attach: runtime('interactive'),
  PortForward: runtime('interactive'),
  ContainerStats: runtime('read'),
  ListContainerStats: runtime('read'),
  StreamContainerStats: runtime('read', true),
  PodSandboxStats: runtime('read'),
  ListPodSandboxStats: runtime('read'),
  StreamPodSandboxStats: runtime('read', true),
  UpdateRuntimeConfig: runtime('change'),
  Status: runtime('read'),
  CheckpointContainer: runtime('change'),
  CheckpointPod: runtime('change'),
  RestorePod: runtime('change'),
  GetContainerEvents: runtime('watch', true),
  ListMetricDescriptors: runtime('read'),
  ListPodSandboxMetrics: runtime('read'),
  StreamPodSandboxMetrics: runtime('read', true),
  RuntimeConfig: runtime('read'),
  UpdatePodSandboxResources: runtime('change'),
  ListImages: image('read'),
  StreamImages: image('read', true),
  ImageStatus: image('read'),
  PullImage: image('change'),
  RemoveImage: image('change'),
  ImageFsInfo: image('read'),
};

/**
 * What a field that could hold an ID holds. `inside`: IDs somewhere
 * in a text (JSON of verbose answers, label values of metrics); `none`: another kind of ID, never rewritten.
 */
export type IdKind = 'container' | 'sandbox' | 'inside' | 'none';

export const ID_FIELDS: Readonly<Record<string, IdKind>> = {
  'IDMapping.host_id': 'none',
  'IDMapping.container_id': 'none',
  'NamespaceOption.target_id': 'container',
  'RunPodSandboxResponse.pod_sandbox_id': 'sandbox',
  'StopPodSandboxRequest.pod_sandbox_id': 'sandbox',
  'RemovePodSandboxRequest.pod_sandbox_id': 'sandbox',
  'PodSandboxStatusRequest.pod_sandbox_id': 'sandbox',
  'PodSandboxStatus.id': 'sandbox',
  'PodSandboxStatusResponse.info': 'inside',
  'PodSandboxFilter.id': 'sandbox',
  'PodSandbox.id': 'sandbox',
  'PodSandboxStatsRequest.pod_sandbox_id': 'sandbox',
  'PodSandboxStatsFilter.id': 'sandbox',
  'PodSandboxAttributes.id': 'sandbox',
  'CreateContainerRequest.pod_sandbox_id': 'sandbox',
  'CreateContainerResponse.container_id': 'container',
  'StartContainerRequest.container_id': 'container',
  'StopContainerRequest.container_id': 'container',
  'RemoveContainerRequest.container_id': 'container',
  'ContainerFilter.id': 'container',
  'ContainerFilter.pod_sandbox_id': 'sandbox',
  'Container.id': 'container',
  'Container.pod_sandbox_id': 'sandbox',
  'Container.image_id': 'none',
  'ContainerStatusRequest.container_id': 'container',
  'ContainerStatus.id': 'container',
  'ContainerStatus.image_id': 'none',
  'ContainerStatusResponse.info': 'inside',
  'UpdateContainerResourcesRequest.container_id': 'container',
  'ExecSyncRequest.container_id': 'container',
  'ExecRequest.container_id': 'container',
  'AttachRequest.container_id': 'container',
  'PortForwardRequest.pod_sandbox_id': 'sandbox',
  'Image.id': 'none',
  'ImageStatusResponse.info': 'none',
  'StatusResponse.info': 'none',
  'FilesystemUsage.fs_id': 'none',
  'WindowsFilesystemUsage.fs_id': 'none',
  'ContainerStatsRequest.container_id': 'container',
  'ContainerStatsFilter.id': 'container',
  'ContainerStatsFilter.pod_sandbox_id': 'sandbox',
  'ContainerAttributes.id': 'container',
  'ReopenContainerLogRequest.container_id': 'container',
  'CheckpointContainerRequest.container_id': 'container',
  // A sandbox's events carry its own ID in the field of the same name.
  'ContainerEventResponse.container_id': 'container',
  'PodSandboxMetrics.pod_sandbox_id': 'sandbox',
  'ContainerMetrics.container_id': 'container',
  'Metric.label_values': 'inside',
  'UpdatePodSandboxResourcesRequest.pod_sandbox_id': 'sandbox',
  'CheckpointPodRequest.pod_sandbox_id': 'sandbox',
  'CheckpointPodRequest.container_ids': 'container',
  'RestorePodResponse.pod_sandbox_id': 'sandbox',
  'RestoredContainer.container_id': 'container',
};
