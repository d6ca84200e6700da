import { GantryError } from '../../errors.ts';
import {
  ListSlotsRequest,
  ListSlotsResponse,
  PutSlotRequest,
  PutSlotResponse,
  RemoveSlotRequest,
  RemoveSlotResponse,
  SlotsService,
} from '../../gen/gantry/v1/slots.ts';
import type { OwnMethod } from '../own.ts';
import type { SlotTable } from './table.ts';

const READS_LIMIT_MS = 10_000;

/**
 * gantry.v1.Slots, for the agent.
 *
 * @param readsOver resolves when the calls that read and that the relay has passed on so far have ended: those that were passed
 *   on before there was a slot cross as bytes, and must not tell of what comes after it
 */
export function slotMethods(
  table: SlotTable,
  readsOver: (signal: AbortSignal) => Promise<void>,
): [path: string, method: OwnMethod][] {
  async function* list(request: Uint8Array): AsyncIterable<Uint8Array> {
    ListSlotsRequest.decode(request);
    yield ListSlotsResponse.encode({ slots: table.slots() }).finish();
  }
  async function* put(request: Uint8Array): AsyncIterable<Uint8Array> {
    const { slot } = PutSlotRequest.decode(request);
    if (slot === undefined) throw new GantryError('USAGE', 'there is no slot in the request');
    const isFirst = table.isEmpty;
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
