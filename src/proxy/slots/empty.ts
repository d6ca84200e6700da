import { open } from 'node:fs/promises';
import type { Pass } from '../intercept/interceptor.ts';
import { textIn } from './edit.ts';
import { type Face, stoppedNow } from './face.ts';
import type { SlotTable } from './table.ts';

const LOG_PATH = 15; // of ContainerStatus; absolute

/** A client has stopped a slot that nobody is in, or on whose occupant somebody works: from here on it is one that has exited. */
export function stopped(table: SlotTable, id: string): Promise<void> {
  return table.update(id, (slot) => ({ ...slot, exit: slot.exit ?? stoppedNow() }));
}

/** The removal of a slot's occupant: the slot ends with it, before the client is told. */
export function ended(table: SlotTable, { slot: { id } }: Face, pass: Pass): Pass {
  const message = async (bytes: Uint8Array) => {
    await table.end(id);
    return bytes;
  };
  return { ...pass, rewriter: { ...pass.rewriter, message } };
}

/** The end of a sandbox, or its removal, is that of its slots. */
export function sandboxEnds(table: SlotTable, method: 'StopPodSandbox' | 'RemovePodSandbox', sandbox: string): Pass {
  const message = async (bytes: Uint8Array) => {
    for (const { id, sandboxId, occupant, extra } of table.slots()) {
      if (sandboxId !== sandbox) continue;
      if (method === 'RemovePodSandbox') await table.remove(id);
      else if (occupant === '' && !extra) await stopped(table, id);
    }
    return bytes;
  };
  return { kind: 'pass', rewriter: { message } };
}

/** After kubelet has moved its log away, there is a new one, as if somebody could write to it. */
export async function reopenLog(face: Face): Promise<void> {
  const path = textIn(face.slot.face, LOG_PATH);
  if (path === '') return;
  const handle = await open(path, 'a', 0o640);
  await handle.close();
}
