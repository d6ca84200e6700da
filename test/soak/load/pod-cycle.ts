import { randomUUID } from 'node:crypto';
import {
  ContainerConfig,
  ContainerEventType,
  ContainerState,
  NamespaceMode,
  PodSandboxConfig,
  PodSandboxState,
  RuntimeServiceService as Runtime,
} from '../../../src/gen/cri.ts';
import type { Caller, Outcome } from '../caller.ts';
import type { CallRecord } from '../judgement.ts';
import { PLAN } from '../plan.ts';
import type { Target } from '../target.ts';
import type { Events } from './events.ts';
import { pause, repeat } from './pace.ts';
import { execute } from './probes.ts';
import { unless } from './reads.ts';

const LABEL = 'gantry.test/soak';
const PAUSE_MS = 500;
const GRACE_SECONDS = 1n;
const EVENTS_LIMIT_MS = 5000;
const SLOW = { timeoutMs: PLAN.slowCallMs };

/** Ends a pod's life early: a call of it failed. The journal has that. */
class Failed extends Error {
  readonly call: CallRecord;

  constructor(call: CallRecord) {
    super(call.details);
    this.call = call;
  }
}

/** Pods that come and go, one after the other, as kubelet lets them. */
export class PodCycle {
  complete = 0;
  readonly #target: Target;
  readonly #caller: Caller;
  readonly #events: Events;
  #count = 0;

  constructor(target: Target, caller: Caller, events: Events) {
    this.#target = target;
    this.#caller = caller;
    this.#events = events;
  }

  async run(): Promise<void> {
    let after: CallRecord | undefined;
    await repeat(PAUSE_MS, this.#target.signal, async () => {
      try {
        await this.#clear(after);
        after = undefined;
        await this.#live();
        this.complete += 1;
      } catch (error) {
        if (!(error instanceof Failed)) throw error;
        after = error.call;
      }
    });
    await this.clear(after);
  }

  /** Removes what is left of this cycle's pods; several tries, as a fault may meet each. */
  async clear(after: CallRecord | undefined): Promise<void> {
    let last = after;
    for (let tries = 0; tries < 5; tries += 1) {
      try {
        return await this.#clear(last);
      } catch (error) {
        if (!(error instanceof Failed)) throw error;
        last = error.call;
      }
    }
  }

  /** One pod from its sandbox to its removal. Throws Failed. */
  async #live(): Promise<void> {
    const bornAt = performance.now();
    const config = this.#sandboxConfig();
    const sandboxRequest = { config, runtimeHandler: '' };
    const { podSandboxId } = taken(await this.#caller.call(Runtime.runPodSandbox, sandboxRequest, SLOW));
    const containerConfig = this.#containerConfig();
    const containerRequest = { podSandboxId, config: containerConfig, sandboxConfig: config };
    const { containerId } = taken(await this.#caller.call(Runtime.createContainer, containerRequest, SLOW));
    taken(await this.#caller.call(Runtime.startContainer, { containerId }, SLOW));
    await this.#expectState(containerId, ContainerState.CONTAINER_RUNNING);
    taken(await execute(this.#caller, { container: containerId }, 0.1));
    taken(await this.#caller.call(Runtime.stopContainer, { containerId, timeout: GRACE_SECONDS }, SLOW));
    await this.#expectState(containerId, ContainerState.CONTAINER_EXITED);
    taken(await this.#caller.call(Runtime.removeContainer, { containerId }, SLOW));
    taken(await this.#caller.call(Runtime.stopPodSandbox, { podSandboxId }, SLOW));
    const stopped = await this.#caller.call(
      Runtime.podSandboxStatus,
      { podSandboxId, verbose: false },
      {
        fault: ({ status }) =>
          unless(status?.state === PodSandboxState.SANDBOX_NOTREADY, `a stopped sandbox is in state ${status?.state}`),
      },
    );
    taken(stopped);
    taken(await this.#caller.call(Runtime.removePodSandbox, { podSandboxId }, SLOW));
    await this.#expectEvents(containerId, bornAt);
    this.#events.forget(containerId);
    this.#events.forget(podSandboxId);
  }

  /** Stops and removes whatever sandboxes of this cycle there are. Throws Failed. */
  async #clear(after: CallRecord | undefined): Promise<void> {
    const filter = { id: '', state: undefined, labelSelector: { [LABEL]: this.#caller.relay } };
    const { items } = taken(await this.#caller.call(Runtime.listPodSandbox, { filter }));
    const options = { ...SLOW, after };
    for (const { id: podSandboxId } of items) {
      taken(await this.#caller.call(Runtime.stopPodSandbox, { podSandboxId }, options));
      taken(await this.#caller.call(Runtime.removePodSandbox, { podSandboxId }, options));
    }
  }

  async #expectState(containerId: string, state: ContainerState): Promise<void> {
    const request = { containerId, verbose: false };
    const outcome = await this.#caller.call(Runtime.containerStatus, request, {
      fault: ({ status }) =>
        unless(
          status?.id === containerId && status.state === state,
          `${status?.id} is in state ${status?.state}; ${containerId} should be in ${state}`,
        ),
    });
    taken(outcome);
  }

  /** A stream that was open all the time has told of the whole life, in this order. */
  async #expectEvents(containerId: string, bornAt: number): Promise<void> {
    const { CONTAINER_CREATED_EVENT, CONTAINER_STARTED_EVENT, CONTAINER_STOPPED_EVENT, CONTAINER_DELETED_EVENT } =
      ContainerEventType;
    const wanted = [
      CONTAINER_CREATED_EVENT,
      CONTAINER_STARTED_EVENT,
      CONTAINER_STOPPED_EVENT,
      CONTAINER_DELETED_EVENT,
    ].join();
    const limit = performance.now() + EVENTS_LIMIT_MS;
    for (;;) {
      const { since } = this.#events;
      // The stream has broken meanwhile, was not open from the beginning, or is being given up.
      if (since === undefined || since > bornAt || this.#target.signal.aborted) return;
      const seen = this.#events.of(containerId).join();
      if (seen === wanted) return;
      if (performance.now() > limit) {
        this.#target.journal.offence({
          at: performance.now(),
          relay: this.#caller.relay,
          what: 'GetContainerEvents (kubelet)',
          why: 'the answer is wrong',
          message: `of container ${containerId} the stream told ${seen || 'nothing'} instead of ${wanted}`,
        });
        return;
      }
      await pause(50, this.#target.signal);
    }
  }

  #sandboxConfig(): PodSandboxConfig {
    this.#count += 1;
    const name = `cycle-${this.#caller.relay}-${this.#count}`;
    const uid = randomUUID();
    return PodSandboxConfig.fromPartial({
      metadata: { name, namespace: 'default', uid, attempt: 0 },
      hostname: name,
      logDirectory: `/var/log/pods/default_${name}_${uid}`,
      labels: { [LABEL]: this.#caller.relay },
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
    });
  }

  #containerConfig(): ContainerConfig {
    return ContainerConfig.fromPartial({
      metadata: { name: 'main', attempt: 0 },
      image: { image: this.#target.images.busybox },
      // It ignores SIGTERM, as PID 1 does by default, so that stopping it takes the grace period.
      command: ['sleep', '1000'],
      logPath: 'main/0.log',
      linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.CONTAINER } } },
    });
  }
}

function taken<Answer>(outcome: Outcome<Answer>): Answer {
  if ('failure' in outcome) throw new Failed(outcome.failure);
  return outcome.answer;
}
