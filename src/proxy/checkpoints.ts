import { readdirSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { POD_ARCHIVE, PREPARED_SUFFIX, preparedFolder } from '../checkpoint/prepared-folder.ts';
import { ContainerCheckpoint, PodCheckpoint, PodRestore, PodRestored } from '../gen/cri/decoded.ts';
import {
  AgentService,
  CheckpointRequest,
  PreparePodRequest,
  type Result,
  StartPreparedRequest,
} from '../gen/gantry/v1/agent.ts';
import { type StatusCode, status } from '../grpc-status.ts';
import { askAgent } from './agent.ts';
import type { ProxyConfig } from './config.ts';
import { type CallHead, type Decision, type HeldCall, type Interceptor, PASS } from './intercept/interceptor.ts';
import { probe } from './probe.ts';
import { textIn } from './slots/edit.ts';

const SERVED = ['CheckpointContainer', 'CheckpointPod', 'RestorePod'];
const PROBE_MS = 2000;
const EMPTY = new Uint8Array();
/** Names of containers are no IDs: the CRI does not know them. */
const ID = /^[0-9a-f]{1,64}$/;

// Of the time that a client gives, this is for undoing: it is to be told when that has been done.
const UNDO_SHARE = 0.1;
const MOST_UNDO_MS = 2000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export type CheckpointsConfig = Pick<ProxyConfig, 'checkpoints' | 'agentSocket' | 'upstream' | 'stateDir'>;

/**
 * Answers the checkpoint calls of the CRI (cri-api 0.37) with what the agent does, where the runtime has none of its own or is
 * not to be asked. What was restored so is started by the agent, too.
 */
export class Checkpoints implements Interceptor {
  readonly name = 'checkpoints';
  readonly #config: CheckpointsConfig;
  readonly #prepared: string;

  constructor(config: CheckpointsConfig) {
    this.#config = config;
    this.#prepared = preparedFolder(config.stateDir);
  }

  wants({ service, method }: CallHead): boolean {
    if (service !== 'RuntimeService') return false;
    if (SERVED.includes(method)) return this.#config.checkpoints !== 'runtime';
    // Rare, and the folder as good as always empty; whoever prepares a container need not tell the relay, nor the one after it.
    return method === 'StartContainer' && preparedIn(this.#prepared);
  }

  async decide(request: Uint8Array, call: HeldCall): Promise<Decision> {
    if (call.method === 'StartContainer') return this.#start(textIn(request, 1), call);
    if (this.#config.checkpoints === 'auto' && (await this.#hasRuntime(call.method))) return PASS;
    switch (call.method) {
      case 'CheckpointContainer':
        return this.#checkpointContainer(ContainerCheckpoint.decode(request), call);
      case 'CheckpointPod':
        return this.#checkpointPod(PodCheckpoint.decode(request), call);
      default:
        return this.#restorePod(PodRestore.decode(request), call);
    }
  }

  /** An empty request asks for nothing, and tells whether there is somebody to ask. A runtime that is away says so itself. */
  async #hasRuntime(method: string): Promise<boolean> {
    const code = await probe(this.#config.upstream, `/runtime.v1.RuntimeService/${method}`, EMPTY, PROBE_MS);
    return code !== status.UNIMPLEMENTED;
  }

  #checkpointContainer({ containerId, location, timeout }: ContainerCheckpoint, call: HeldCall): Promise<Decision> {
    if (!isAbsolute(location)) return wrong(`"${location}" is no absolute path of an archive`);
    if (!ID.test(containerId)) return unknown(containerId);
    const request = CheckpointRequest.fromPartial({ container: containerId, archive: location, ...AS_IT_RUNS });
    return this.#ask(
      call,
      AgentService.checkpoint.path,
      CheckpointRequest.encode(request).finish(),
      () => EMPTY,
      timeout,
    );
  }

  #checkpointPod(pod: PodCheckpoint, call: HeldCall): Promise<Decision> {
    const { podSandboxId, outputPath, containerIds, options } = pod;
    if (!isAbsolute(outputPath)) return wrong(`"${outputPath}" is no absolute path of a folder`);
    if (containerIds.length === 0) return wrong('no container is named');
    const [option] = Object.keys(options);
    if (option !== undefined) return wrong(`there is no option "${option}"`);
    if (!ID.test(podSandboxId)) return unknown(podSandboxId);
    const archive = join(outputPath, POD_ARCHIVE);
    const request = { container: podSandboxId, containers: containerIds, archive, ...AS_IT_RUNS };
    return this.#ask(
      call,
      AgentService.checkpoint.path,
      CheckpointRequest.encode(CheckpointRequest.fromPartial(request)).finish(),
      () => EMPTY,
    );
  }

  #restorePod(pod: PodRestore, call: HeldCall): Promise<Decision> {
    const { checkpointPath, config, runtimeHandler, containerConfigs, options } = pod;
    if (!isAbsolute(checkpointPath)) return wrong(`"${checkpointPath}" is no absolute path of a folder`);
    if (config.length === 0) return wrong('the configuration of the sandbox is missing');
    if (containerConfigs.length === 0) return wrong('no container is configured');
    const [option] = Object.keys(options);
    if (option !== undefined) return wrong(`there is no option "${option}"`);
    const request = { path: checkpointPath, sandboxConfig: config, runtimeHandler, containerConfigs };
    return this.#ask(
      call,
      AgentService.preparePod.path,
      PreparePodRequest.encode(PreparePodRequest.fromPartial(request)).finish(),
      ({ sandboxId, prepared }) =>
        PodRestored.encode(PodRestored.fromPartial({ podSandboxId: sandboxId, restoredContainers: prepared })).finish(),
    );
  }

  /** One that comes from a checkpoint is never started by the runtime alone, which would start it afresh. */
  async #start(id: string, call: HeldCall): Promise<Decision> {
    const names = await readdir(this.#prepared).catch(() => []);
    const found = names.find((name) => ID.test(id) && name.startsWith(id) && name.endsWith(PREPARED_SUFFIX));
    if (found === undefined) return PASS;
    const request = StartPreparedRequest.fromPartial({ container: found.slice(0, -PREPARED_SUFFIX.length) });
    return this.#ask(call, AgentService.startPrepared.path, StartPreparedRequest.encode(request).finish(), () => EMPTY);
  }

  /** @param timeout seconds that the client gives besides its deadline; 0 for none */
  async #ask(
    call: HeldCall,
    path: string,
    request: Uint8Array,
    answer: (result: Result) => Uint8Array,
    timeout = 0n,
  ): Promise<Decision> {
    const limitMs = Math.min(beforeDeadline(call), timeout > 0n ? Number(timeout) * 1000 : Number.POSITIVE_INFINITY);
    const outcome = await askAgent(this.#config.agentSocket, {
      path,
      request,
      limit: limitMs > LONGEST_TIMER_MS ? undefined : AbortSignal.timeout(Math.max(0, Math.round(limitMs))),
      gone: call.signal,
    });
    return outcome.kind === 'done' ? { kind: 'answer', messages: [answer(outcome.result)] } : outcome;
  }
}

/** Connections are saved, for whoever restores it where they can live on; what is not accepted yet is not the container's. */
const AS_IT_RUNS = { leaveRunning: true, tcp: 'established', criuOptions: ['tcp-skip-in-flight'], attached: true };

/** In milliseconds from now. */
function beforeDeadline({ deadline }: HeldCall): number {
  const leftMs = deadline - performance.now();
  return leftMs === Number.POSITIVE_INFINITY ? leftMs : leftMs - Math.min(leftMs * UNDO_SHARE, MOST_UNDO_MS);
}

function preparedIn(folder: string): boolean {
  try {
    return readdirSync(folder).length > 0;
  } catch {
    return false;
  }
}

async function wrong(message: string): Promise<Decision> {
  return fail(status.INVALID_ARGUMENT, message);
}

async function unknown(id: string): Promise<Decision> {
  return fail(status.NOT_FOUND, `there is no ID "${id}"`);
}

function fail(code: StatusCode, message: string): Decision {
  return { kind: 'fail', code, message };
}
