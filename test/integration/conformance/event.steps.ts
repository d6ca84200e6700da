import { vi } from 'vitest';
import { ContainerEventResponse, ContainerEventType, RuntimeServiceService as Runtime } from '../../../src/gen/cri.ts';
import type { RawClient } from '../../../src/proxy/relay.fixture.ts';
import type { Progress } from './answer.ts';
import { containerConfig, sandboxConfig } from './configs.ts';
import { twins } from './step.ts';
import type { Twin } from './twin.ts';
import { unary } from './unary.ts';

/** The stream of events, while a container of the twin's sandbox lives and ends. */
export const eventSteps = [
  twins('GetContainerEvents', Runtime.getContainerEvents, () => ({}), {
    since: 'trixie',
    // A stream that the client cancels has no status.
    status: 'any',
    // containerd 1.7 gives an event to one watcher only.
    inTurn: true,
    meanwhile: liveAndEnd,
    isAbout: (event, twin) => event.containerId === twin.own('watched'),
  }),
];

async function liveAndEnd(client: RawClient, twin: Twin, progress: Progress): Promise<void> {
  // Only an event tells that the runtime serves the stream. In 1.7 a watcher that has gone still takes the next one.
  while (progress.messages().length === 0) {
    if (progress.ended()) return;
    await unary(client, Runtime.removeContainer, { containerId: await create(client, twin, 'throwaway') });
  }
  const containerId = await create(client, twin, 'watched');
  twin.learn('watched', containerId);
  const told = (type: ContainerEventType) =>
    vi.waitFor(
      () => {
        const events = progress.messages().map(({ bytes }) => ContainerEventResponse.decode(bytes));
        if (events.some((event) => event.containerId === containerId && event.containerEventType === type)) return;
        throw new Error(`there was no event of type ${type}`);
      },
      { timeout: 10_000 },
    );
  await told(ContainerEventType.CONTAINER_CREATED_EVENT);
  await unary(client, Runtime.startContainer, { containerId });
  await told(ContainerEventType.CONTAINER_STARTED_EVENT);
  await unary(client, Runtime.stopContainer, { containerId, timeout: 0n });
  await told(ContainerEventType.CONTAINER_STOPPED_EVENT);
  await unary(client, Runtime.removeContainer, { containerId });
  await told(ContainerEventType.CONTAINER_DELETED_EVENT);
}

async function create(client: RawClient, twin: Twin, name: string): Promise<string> {
  const { containerId } = await unary(client, Runtime.createContainer, {
    podSandboxId: twin.own('sandbox'),
    config: containerConfig(name),
    sandboxConfig: sandboxConfig(twin),
  });
  return containerId;
}
