import { SlotPhase } from '../../gen/gantry/v1/slots.ts';
import { status } from '../../grpc-status.ts';
import {
  type AnswerRewriter,
  type CallHead,
  type Decision,
  type HeldCall,
  type Interceptor,
  PASS,
  type Status,
} from '../intercept/interceptor.ts';
import { METHODS } from '../methods.ts';
import { nested, rewriteAnswer } from './answers.ts';
import { edit, textIn } from './edit.ts';
import { ended, reopenLog, sandboxEnds, stopped } from './empty.ts';
import type { Face } from './face.ts';
import { Listing, listingOf } from './listing.ts';
import type { SlotTable } from './table.ts';

// linux.security_context.namespace_options.target_id
const OF_SANDBOX_CONFIG = [8, 2, 1, 4];
const OF_CONTAINER_CONFIG = [15, 2, 3, 4];

/** Where requests hold IDs of containers. Field numbers of runtime.v1; a test compares them with the upstream definition. */
export const REQUEST_IDS: Readonly<Record<string, readonly (readonly number[])[]>> = {
  StartContainer: [[1]],
  StopContainer: [[1]],
  RemoveContainer: [[1]],
  ContainerStatus: [[1]],
  UpdateContainerResources: [[1]],
  ReopenContainerLog: [[1]],
  ExecSync: [[1]],
  Exec: [[1]],
  Attach: [[1]],
  ContainerStats: [[1]],
  CheckpointContainer: [[1]],
  // Of the filter.
  ListContainers: [[1, 1]],
  StreamContainers: [[1, 1]],
  ListContainerStats: [[1, 1]],
  StreamContainerStats: [[1, 1]],
  RunPodSandbox: [[1, ...OF_SANDBOX_CONFIG]],
  CreateContainer: [
    [2, ...OF_CONTAINER_CONFIG],
    [3, ...OF_SANDBOX_CONFIG],
  ],
  PullImage: [[3, ...OF_SANDBOX_CONFIG]],
  RestorePod: [
    [2, ...OF_SANDBOX_CONFIG],
    [5, ...OF_CONTAINER_CONFIG],
  ],
};

/** Calls that are about one container, which may be a slot. */
const ABOUT_ONE = new Set(
  Object.entries(REQUEST_IDS)
    .filter(([, [path]]) => path?.length === 1)
    .map(([method]) => method),
);

// Before a deadline that would pass while its container is being exchanged, kubelet is told something that it takes for neither
// yes nor no of a probe.
const GIVE_UP_BEFORE_MS = 50;
// A list reads what it finds; it does not wait for a slot.
const WAITS = new Set([
  'StopContainer',
  'RemoveContainer',
  'ExecSync',
  'Exec',
  'Attach',
  'UpdateContainerResources',
  'ReopenContainerLog',
  'CheckpointContainer',
]);

/**
 * Shows clients of the CRI the slots instead of the containers that are in them: IDs, names, images and times as they have
 * always been, in every call that knows a container.
 */
export class Virtual implements Interceptor {
  readonly name = 'slots';
  readonly #table: SlotTable;

  constructor(table: SlotTable) {
    this.#table = table;
  }

  /** While there is no slot, only event streams: they may last until there is one. */
  wants({ method }: CallHead): boolean {
    if (this.#table.isEmpty) return method === 'GetContainerEvents';
    return method in REQUEST_IDS || nested(method) || endsSandbox(method);
  }

  decide(request: Uint8Array, call: HeldCall): Decision | Promise<Decision> {
    const { method } = call;
    const table = this.#table;
    if (ABOUT_ONE.has(method)) {
      const face = table.face(textIn(request, 1));
      return face === undefined ? this.#pass(request, method) : this.#aboutSlot(face, request, call);
    }
    if (endsSandbox(method)) return sandboxEnds(table, method, textIn(request, 1));
    const listing = listingOf(method);
    if (listing !== undefined) return new Listing(table, listing, request).pass(METHODS[method]?.streams === true);
    return this.#pass(request, method);
  }

  async #aboutSlot(first: Face, request: Uint8Array, call: HeldCall): Promise<Decision> {
    const { id } = first.slot;
    const table = this.#table;
    if (WAITS.has(call.method) && first.slot.phase === SlotPhase.CHANGING) {
      const limit = Number.isFinite(call.deadline)
        ? AbortSignal.timeout(Math.max(0, Math.round(call.deadline - performance.now() - GIVE_UP_BEFORE_MS)))
        : undefined;
      try {
        await table.changed(id, limit === undefined ? call.signal : AbortSignal.any([call.signal, limit]));
      } catch {
        return fail(status.UNAVAILABLE, `container ${id} is being exchanged by gantry; ask again`);
      }
    }
    const face = table.face(id);
    if (face === undefined) return PASS; // it has ended meanwhile: the runtime says so
    const { occupant } = face.slot;
    if (occupant === '') return this.#empty(face, call.method);
    if (call.method === 'RemoveContainer') return ended(table, face, this.#pass(request, call.method));
    return this.#pass(request, call.method);
  }

  /** Nobody is in it. Clients of the CRI are shown a container that runs, or one that they have stopped. */
  async #empty(face: Face, method: string): Promise<Decision> {
    const table = this.#table;
    const { id } = face.slot;
    switch (method) {
      case 'ContainerStatus':
        return message(edit(Buffer.from('\x0a\x00', 'latin1'), [1], () => face.status(undefined)));
      case 'ContainerStats':
        return message(edit(Buffer.from('\x0a\x00', 'latin1'), [1], () => face.stats(undefined)));
      case 'StopContainer':
        await stopped(table, id);
        return message(new Uint8Array());
      case 'RemoveContainer':
        await table.end(id);
        return message(new Uint8Array());
      case 'ReopenContainerLog':
        await reopenLog(face);
        return message(new Uint8Array());
      default:
        return fail(
          status.FAILED_PRECONDITION,
          `container ${id} has been taken out of its pod by gantry, and nobody is in its place (gantry insert, or gantry rollback)`,
        );
    }
  }

  /** To the runtime, in terms of real IDs, and the answer back in terms of virtual ones. */
  #pass(request: Uint8Array, method: string): Decision & { kind: 'pass' } {
    const table = this.#table;
    let changed = request;
    for (const path of REQUEST_IDS[method] ?? []) {
      changed = edit(changed, path, (id) => {
        const occupant = table.face(Buffer.from(id).toString())?.slot.occupant;
        return occupant === undefined || occupant === '' ? id : Buffer.from(occupant);
      });
    }
    return { kind: 'pass', request: changed, rewriter: rewriterOf(table, method) };
  }
}

function endsSandbox(method: string): method is 'StopPodSandbox' | 'RemovePodSandbox' {
  return method === 'StopPodSandbox' || method === 'RemovePodSandbox';
}

function rewriterOf(table: SlotTable, method: string): AnswerRewriter {
  return {
    ...(nested(method) && { message: (bytes: Uint8Array) => rewriteAnswer(table, method, bytes) }),
    status: (before) => virtualStatus(table, before),
  };
}

/** Errors name the container by the ID that the client has used. */
function virtualStatus(table: SlotTable, before: Status): Status {
  if (before.message === '') return before;
  let text = before.message;
  for (const { slot } of table.faces) {
    if (slot.occupant !== '' && !slot.extra && text.includes(slot.occupant))
      text = text.replaceAll(slot.occupant, slot.id);
  }
  return { code: before.code, message: text };
}

function message(bytes: Uint8Array): Decision {
  return { kind: 'answer', messages: [bytes] };
}

function fail(code: Status['code'], text: string): Decision {
  return { kind: 'fail', code, message: text };
}
