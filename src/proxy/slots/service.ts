import { GantryError } from '../../errors.ts';
import {
  ListSlotsRequest,
  ListSlotsResponse,
  PutSlotRequest,
  PutSlotResponse,
  RemoveSlotRequest,
  RemoveSlotResponse,
  SlotPhase,
  SlotsService,
} from '../../gen/gantry/v1/slots.ts';
import type { OwnMethod } from '../own.ts';
import type { Relay } from '../relay.ts';
import type { SlotTable } from './table.ts';

const READS_LIMIT_MS = 10_000;

/** gantry.v1.Slots, for the agent. */
export function slotMethods(
  table: SlotTable,
  // Calls that read and were passed on before there was a slot cross as bytes, and must not tell of what comes after it; what
  // has been run inside a container is to be over before that one is stopped or frozen.
  { readsOver, runsOver }: Pick<Relay, 'readsOver' | 'runsOver'>,
): [path: string, method: OwnMethod][] {
  async function* list(request: Uint8Array): AsyncIterable<Uint8Array> {
    ListSlotsRequest.decode(request);
    yield ListSlotsResponse.encode({ slots: table.slots() }).finish();
  }
  async function* put(request: Uint8Array): AsyncIterable<Uint8Array> {
    const { slot } = PutSlotRequest.decode(request);
    if (slot === undefined) throw new GantryError('USAGE', 'there is no slot in the request');
    const isFirst = table.isEmpty;
    const isLeft = slot.phase === SlotPhase.CHANGING && table.phase(slot.id) !== SlotPhase.CHANGING;
    const made = await table.put(slot);
    if (isFirst) {
      try {
        await readsOver(AbortSignal.timeout(READS_LIMIT_MS));
      } catch (error) {
        await table.remove(made.id, made.revision);
        throw new GantryError('RUNTIME_UNAVAILABLE', 'calls that were passed to the runtime before do not come back', {
          cause: error,
          hint: 'see what the runtime is busy with: gantry proxy trace',
        });
      }
    }
    if (isLeft) await runsOver();
    yield PutSlotResponse.encode({ slot: made }).finish();
  }
  async function* remove(request: Uint8Array): AsyncIterable<Uint8Array> {
    const { id, revision } = RemoveSlotRequest.decode(request);
    await table.remove(id, revision);
    yield RemoveSlotResponse.encode({}).finish();
  }
  return [
    [SlotsService.list.path, list],
    [SlotsService.put.path, put],
    [SlotsService.remove.path, remove],
  ];
}
