import type { MethodDefinition } from '@grpc/grpc-js';
import { type CheckpointContainerRequest, RuntimeServiceService as Runtime } from '../../../src/gen/cri.ts';
import { one, twins } from './step.ts';
import type { Twin } from './twin.ts';

/**
 * A method of cri-api 0.37, of which there is no generated code (`proto/cri/supplement.proto`). Its request begins as
 * that of CheckpointContainer does: with texts.
 */
function method(name: string): MethodDefinition<CheckpointContainerRequest, Buffer> {
  const bytes = (value: Buffer): Buffer => value;
  return {
    ...Runtime.checkpointContainer,
    path: `/runtime.v1.RuntimeService/${name}`,
    responseSerialize: bytes,
    responseDeserialize: bytes,
  };
}

const checkpoint =
  (name: string) =>
  (twin: Twin): CheckpointContainerRequest => ({
    containerId: twin.own(name),
    location: `/tmp/${twin.own('uid')}.tar`,
    timeout: 0n,
  });
const restore = (): CheckpointContainerRequest => ({ containerId: '/tmp/none.tar', location: '', timeout: 0n });

export const checkpointSteps = [
  twins('CheckpointContainer', Runtime.checkpointContainer, checkpoint('container'), { since: 'forky' }),
  twins('CheckpointContainer of a container that could not start', Runtime.checkpointContainer, checkpoint('broken'), {
    since: 'forky',
    status: 'failure',
  }),
  twins('CheckpointPod', method('CheckpointPod'), checkpoint('sandbox'), { since: 'later' }),
  one('RestorePod', method('RestorePod'), restore, { since: 'later' }),
];
