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
import { MessageError } from '../messages.ts';
import { METHODS } from '../methods.ts';
import { nested, rewriteAnswer } from './answers.ts';
import { edit, lengthField, numberAt, textIn } from './edit.ts';
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
  CheckpointPod: [[3]],
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
    .filter(([, [path]]) => path?.length === 1 && path[0] === 1)
    .map(([method]) => method),
);

// A call that waits for the end of an exchange is answered before its client takes silence for an answer: kubelet takes an error
// for neither yes nor no of a probe, but a timeout for no.
const GIVE_UP_BEFORE_MS = 100;
const LONGEST_WAIT_MS = 120_000;
const EXEC_TIMEOUT = 3; // of ExecSyncRequest, in seconds
const EXEC_SHARE = 0.8;
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

const READS_OR_RUNS = new Set(['ContainerStatus', 'ContainerStats', 'ExecSync']);
const EXIT_CODE = 3; // of ExecSyncResponse

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
    const { method } = call;
    const table = this.#table;
    if (WAITS.has(method) && first.slot.phase === SlotPhase.CHANGING) {
      const limit = AbortSignal.timeout(waitLimitMs(request, call));
      try {
        await table.changed(id, AbortSignal.any([call.signal, limit]));
      } catch {
        return exchanged(id);
      }
    }
    const face = table.face(id);
    if (face === undefined) return PASS; // it has ended meanwhile: the runtime says so
    const { occupant } = face.slot;
    // What the occupant does is not to be seen: there is no need to ask for it.
    if (method === 'ContainerStatus' && face.isMasked) return message(lengthField(1, face.status(undefined)));
    if (occupant === '') return this.#empty(face, method);
    // Whoever works on the slot is told by the exit, and by the revision: nobody is to be started again in it.
    if (method === 'StopContainer' && face.slot.operation !== undefined) await stopped(table, id);
    const pass = this.#pass(request, method);
    const bound = { ...pass, rewriter: boundTo(table, face, method, pass.rewriter ?? {}) };
    return method === 'RemoveContainer' ? ended(table, face, bound) : bound;
  }

  /** Nobody is in it. Clients of the CRI are shown a container that runs, or one that they have stopped. */
  async #empty(face: Face, method: string): Promise<Decision> {
    const table = this.#table;
    const { id } = face.slot;
    switch (method) {
      case 'ContainerStatus':
        return message(lengthField(1, face.status(undefined)));
      case 'ContainerStats':
        return message(lengthField(1, face.stats(undefined)));
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

function waitLimitMs(request: Uint8Array, { method, deadline }: HeldCall): number {
  const leftMs = deadline - performance.now() - GIVE_UP_BEFORE_MS;
  const execMs = method === 'ExecSync' ? numberAt(request, EXEC_TIMEOUT) * 1000 * EXEC_SHARE : 0;
  return Math.max(0, Math.round(Math.min(leftMs, execMs || LONGEST_WAIT_MS, LONGEST_WAIT_MS)));
}

/** A call on its way to an occupant who may leave meanwhile: its end is none of the call. */
function boundTo(table: SlotTable, { slot }: Face, method: string, rewriter: AnswerRewriter): AnswerRewriter {
  const hasLeft = () => {
    const now = table.face(slot.id)?.slot;
    return now !== undefined && (now.occupant !== slot.occupant || now.phase === SlotPhase.CHANGING);
  };
  return {
    ...rewriter,
    // What was run inside is killed with the container.
    ...(method === 'ExecSync' && {
      message(bytes: Uint8Array) {
        if (hasLeft() && numberAt(bytes, EXIT_CODE) !== 0)
          throw new MessageError(status.UNAVAILABLE, exchangedText(slot.id));
        return bytes;
      },
    }),
    status({ code, message }) {
      const text = message.replaceAll(slot.occupant, slot.id);
      const isGone = code !== status.OK && hasLeft() && READS_OR_RUNS.has(method);
      return isGone ? { code: status.UNAVAILABLE, message: exchangedText(slot.id) } : { code, message: text };
    },
  };
}

function exchangedText(id: string): string {
  return `container ${id} is being exchanged by gantry; ask again`;
}

function exchanged(id: string): Decision {
  return fail(status.UNAVAILABLE, exchangedText(id));
}

function message(bytes: Uint8Array): Decision {
  return { kind: 'answer', messages: [bytes] };
}

function fail(code: Status['code'], text: string): Decision {
  return { kind: 'fail', code, message: text };
}
