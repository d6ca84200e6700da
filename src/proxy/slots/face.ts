import { type Slot, type SlotExit, SlotPhase } from '../../gen/gantry/v1/slots.ts';
import { filtered, lengthField, numberField, renumbered, textMapIn } from './edit.ts';

/** Field numbers of runtime.v1; a test compares them with the upstream definition. */
export const NUMBERS = {
  'Container.pod_sandbox_id': 2,
  'Container.state': 6,
  'ContainerStatus.id': 1,
  'ContainerStatus.state': 3,
  'ContainerStatus.finished_at': 6,
  'ContainerStatus.exit_code': 7,
  'ContainerStatus.reason': 10,
  'ContainerStatus.labels': 12,
  'ContainerStats.attributes': 1,
  'ContainerAttributes.id': 1,
  'ContainerAttributes.labels': 3,
  'Image.id': 1,
  'Image.pinned': 8,
} as const;

/** Of ContainerStatus, under the numbers that they have in Container. */
export const AS_CONTAINER = { 1: 1, 2: 3, 8: 4, 9: 5, 4: 7, 12: 8, 13: 9, 17: 10 };
/** Of ContainerStatus, under the numbers that they have in ContainerAttributes. */
export const AS_ATTRIBUTES = { 1: 1, 2: 2, 12: 3, 13: 4 };
/** What of a status is the occupant's own: state, finished_at, exit_code, reason, message, resources, user, stop_signal. */
const OCCUPANTS = new Set([3, 6, 7, 10, 11, 16, 18, 19]);

const RUNNING = 1;
const EXITED = 2;
// As a shell and Kubernetes say of SIGKILL.
const STOPPED_CODE = 137;
const STOPPED_REASON = 'Error';

/** The end of a slot that nobody is in. */
export function stoppedNow(): SlotExit {
  return { code: STOPPED_CODE, finishedAt: BigInt(Date.now()) * 1_000_000n, _unknownFields: {} };
}

/** What clients of the CRI are shown of a slot. All messages are made once; only state and end change. */
export class Face {
  readonly slot: Slot;
  readonly labels: ReadonlyMap<string, string>;
  readonly #container: Buffer;
  readonly #status: Buffer;
  readonly #attributes: Buffer;
  /** By state: a list may show hundreds of slots, each second. */
  readonly #containers = new Map<number, Buffer>();

  constructor(slot: Slot) {
    this.slot = slot;
    this.labels = textMapIn(slot.face, NUMBERS['ContainerStatus.labels']);
    const container = renumbered(slot.face, AS_CONTAINER);
    this.#container = Buffer.concat([container, lengthField(NUMBERS['Container.pod_sandbox_id'], slot.sandboxId)]);
    this.#status = filtered(slot.face, (number) => !OCCUPANTS.has(number));
    this.#attributes = lengthField(NUMBERS['ContainerStats.attributes'], renumbered(slot.face, AS_ATTRIBUTES));
  }

  /** Whatever becomes of the occupant, clients see the slot running. */
  get isMasked(): boolean {
    return this.slot.phase !== SlotPhase.SETTLED;
  }

  /** runtime.v1.ContainerState. @param real what the runtime says of the occupant, if it is known */
  state(real: number | undefined): number {
    if (this.isMasked) return RUNNING;
    if (this.slot.exit !== undefined) return EXITED;
    return real ?? RUNNING;
  }

  /** runtime.v1.Container. @param real the state of the occupant, if it is known */
  container(real: number | undefined): Buffer {
    const state = this.state(real);
    let container = this.#containers.get(state);
    if (container === undefined) {
      container = Buffer.concat([this.#container, numberField(NUMBERS['Container.state'], state)]);
      this.#containers.set(state, container);
    }
    return container;
  }

  /** runtime.v1.ContainerStatus. @param real the occupant's */
  status(real: Uint8Array | undefined): Uint8Array {
    return Buffer.concat([this.#status, this.#ofOccupant(real)]);
  }

  #ofOccupant(real: Uint8Array | undefined): Uint8Array {
    const { exit, face } = this.slot;
    if (!this.isMasked && exit === undefined && real !== undefined)
      return filtered(real, (number) => OCCUPANTS.has(number));
    // It runs on, as far as anybody may know; or it has ended without ever having been there.
    const lasting = filtered(face, (number) => number >= 16 && OCCUPANTS.has(number));
    const state = numberField(NUMBERS['ContainerStatus.state'], this.state(undefined));
    if (exit === undefined || this.isMasked) return Buffer.concat([lasting, state]);
    return Buffer.concat([
      lasting,
      state,
      numberField(NUMBERS['ContainerStatus.finished_at'], Number(exit.finishedAt)),
      numberField(NUMBERS['ContainerStatus.exit_code'], exit.code),
      lengthField(NUMBERS['ContainerStatus.reason'], STOPPED_REASON),
    ]);
  }

  /** runtime.v1.ContainerStats: whose they are is the slot, the figures are the occupant's. */
  stats(real: Uint8Array | undefined): Uint8Array {
    const figures = real && filtered(real, (number) => number !== NUMBERS['ContainerStats.attributes']);
    return figures === undefined ? this.#attributes : Buffer.concat([this.#attributes, figures]);
  }
}
