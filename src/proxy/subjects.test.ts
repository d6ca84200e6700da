import { expect, test } from 'vitest';
import {
  CreateContainerRequest,
  CreateContainerResponse,
  ListContainersResponse,
  ListPodSandboxResponse,
  PodSandboxStatusRequest,
  RunPodSandboxRequest,
  RunPodSandboxResponse,
  StopContainerRequest,
} from '../gen/cri.ts';
import { Subjects, subjectKindOf } from './subjects.ts';

// The encoders here are generated from the upstream definition; what they write is what kubelet sends.
const stop = (containerId: string) => StopContainerRequest.encode({ containerId, timeout: 30n }).finish();
const run = RunPodSandboxRequest.encode(
  RunPodSandboxRequest.fromPartial({
    config: { metadata: { name: 'redis', uid: 'u', namespace: 'default', attempt: 1 }, hostname: 'h' },
    runtimeHandler: 'runc',
  }),
).finish();
const create = CreateContainerRequest.encode(
  CreateContainerRequest.fromPartial({
    podSandboxId: 'S',
    config: { metadata: { name: 'main', attempt: 2 }, image: { image: 'redis:1' } },
  }),
).finish();

test('what is made is known from then on, until it is removed', () => {
  const subjects = new Subjects();
  const ran = RunPodSandboxResponse.encode({ podSandboxId: 'S' }).finish();
  expect(subjects.of('new sandbox', run, ran)).toEqual({ namespace: 'default', pod: 'redis', sandboxId: 'S' });
  const created = CreateContainerResponse.encode({ containerId: 'C' }).finish();
  const main = { namespace: 'default', pod: 'redis', container: 'main', sandboxId: 'S', containerId: 'C' };
  expect(subjects.of('new container', create, created)).toEqual(main);
  expect(subjects.of('container', stop('C'), undefined)).toEqual(main);
  const status = PodSandboxStatusRequest.encode({ podSandboxId: 'S', verbose: false }).finish();
  expect(subjects.of('sandbox', status, undefined)).toEqual({ namespace: 'default', pod: 'redis', sandboxId: 'S' });
  subjects.forget(main);
  expect(subjects.of('container', stop('C'), undefined)).toEqual({ containerId: 'C' });
});

test('what could not be made still has the names it would have had', () => {
  const subjects = new Subjects();
  expect(subjects.of('new sandbox', run, undefined)).toMatchObject({ namespace: 'default', pod: 'redis' });
  expect(subjects.of('new container', create, undefined)).toMatchObject({ container: 'main', sandboxId: 'S' });
});

test('what was there before is asked for; a runtime that does not answer leaves IDs', async () => {
  const subjects = new Subjects();
  const answers: Record<string, Uint8Array> = {
    ListPodSandbox: ListPodSandboxResponse.encode(
      ListPodSandboxResponse.fromPartial({
        items: ['S1', 'S2'].map((id) => ({ id, metadata: { name: `pod-${id}`, uid: 'u', namespace: 'apps' } })),
      }),
    ).finish(),
    ListContainers: ListContainersResponse.encode(
      ListContainersResponse.fromPartial({
        containers: [{ id: 'C2', podSandboxId: 'S2', metadata: { name: 'sidecar' }, image: { image: 'x' } }],
      }),
    ).finish(),
  };
  await subjects.learn(async () => undefined);
  expect(subjects.of('container', stop('C2'), undefined)).toEqual({ containerId: 'C2' });
  await subjects.learn(async (method) => answers[method]);
  expect(subjects.of('container', stop('C2'), undefined)).toEqual({
    ...{ namespace: 'apps', pod: 'pod-S2', container: 'sidecar' },
    ...{ sandboxId: 'S2', containerId: 'C2' },
  });
});

test('methods that are about nothing in particular have no subject', () => {
  expect(['Version', 'ListContainers', 'PullImage', 'FromTheFuture'].map(subjectKindOf)).toEqual(
    Array(4).fill(undefined),
  );
  expect(['StopContainer', 'ExecSync', 'StopPodSandbox', 'PortForward'].map(subjectKindOf)).toEqual([
    'container',
    'container',
    'sandbox',
    'sandbox',
  ]);
});
