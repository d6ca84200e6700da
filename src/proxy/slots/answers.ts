import { fieldsOf } from '../wire.ts';
import { edit, numberField, textIn, textMapIn } from './edit.ts';
import { NUMBERS } from './face.ts';
import { SLOT_LABEL } from './label.ts';
import type { SlotTable } from './table.ts';

type Change = (table: SlotTable, value: Uint8Array) => Uint8Array | undefined;
type Changes = readonly (readonly [path: readonly number[], change: Change])[];

// Of PodSandboxStatus: linux.namespaces.options.target_id.
const TARGET_ID = [6, 1, 2, 4];
// Of Linux, and of Windows.
const POD_STATS: Changes = [
  [[1, 2, 5], stats],
  [[1, 3, 5], stats],
];

/** What answers hold of containers, other than lists of them, and where. Field numbers of runtime.v1. */
const CHANGES: Readonly<Record<string, Changes>> = {
  ContainerStatus: [
    [[1], status],
    [[2, 2], texts],
  ],
  PodSandboxStatus: [
    [[3], status],
    [[2, 2], texts],
    [[1, ...TARGET_ID], exactId],
  ],
  GetContainerEvents: [
    [[5], status],
    [[4, ...TARGET_ID], exactId],
  ],
  ListImages: [[[1], image]],
  StreamImages: [[[1], image]],
  ImageStatus: [[[1], image]],
  ContainerStats: [[[1], stats]],
  PodSandboxStats: POD_STATS,
  ListPodSandboxStats: POD_STATS,
  StreamPodSandboxStats: POD_STATS,
  ListPodSandboxMetrics: [
    [[1, 3], metrics],
    [[1, 2, 4], exactId],
  ],
  StreamPodSandboxMetrics: [
    [[1, 3], metrics],
    [[1, 2, 4], exactId],
  ],
};

/** Whether answers of the method hold containers somewhere inside. */
export function nested(method: string): boolean {
  return method in CHANGES;
}

/** An answer in terms of virtual IDs; undefined for an event that is nobody's business. */
export function rewriteAnswer(table: SlotTable, method: string, answer: Uint8Array): Uint8Array | undefined {
  if (table.isEmpty) return answer;
  let changed = answer;
  if (method === 'GetContainerEvents') {
    const event = ofEvent(table, answer);
    if (event === undefined) return undefined;
    changed = event;
  }
  for (const [path, change] of CHANGES[method] ?? []) changed = edit(changed, path, (value) => change(table, value));
  return changed;
}

function status(table: SlotTable, value: Uint8Array): Uint8Array | undefined {
  const role = table.role(textIn(value, NUMBERS['ContainerStatus.id']));
  if (role === undefined) return isStray(table, value, NUMBERS['ContainerStatus.labels']) ? undefined : value;
  return role.kind === 'hidden' ? undefined : role.face.status(value);
}

function stats(table: SlotTable, value: Uint8Array): Uint8Array | undefined {
  for (const attributes of fieldsOf(value, NUMBERS['ContainerStats.attributes'])) {
    const role = table.role(textIn(attributes, NUMBERS['ContainerAttributes.id']));
    if (role?.kind === 'hidden') return undefined;
    if (role !== undefined) return role.face.stats(value);
    if (isStray(table, attributes, NUMBERS['ContainerAttributes.labels'])) return undefined;
  }
  return value;
}

function metrics(table: SlotTable, value: Uint8Array): Uint8Array | undefined {
  const role = table.role(textIn(value, 1));
  if (role === undefined) return value;
  if (role.kind === 'hidden') return undefined;
  const named = edit(value, [1], () => Buffer.from(role.face.slot.id));
  return edit(named, [2, 4], (text) => exactId(table, text));
}

function exactId(table: SlotTable, value: Uint8Array): Uint8Array {
  const role = table.role(Buffer.from(value).toString());
  return role?.kind === 'occupant' ? Buffer.from(role.face.slot.id) : value;
}

/** kubelet's collection of images knows only those of the containers that it sees. */
function image(table: SlotTable, value: Uint8Array): Uint8Array {
  if (!table.isNeeded(textIn(value, NUMBERS['Image.id']))) return value;
  return Buffer.concat([value, numberField(NUMBERS['Image.pinned'], 1)]);
}

/** JSON of verbose answers: IDs stand in paths, too. */
function texts(table: SlotTable, value: Uint8Array): Uint8Array {
  let text = Buffer.from(value).toString();
  for (const { slot } of table.faces) {
    if (slot.occupant !== '' && !slot.extra && text.includes(slot.occupant))
      text = text.replaceAll(slot.occupant, slot.id);
  }
  return text.length === value.length ? Buffer.from(text) : value;
}

function ofEvent(table: SlotTable, event: Uint8Array): Uint8Array | undefined {
  const id = textIn(event, 1);
  const role = table.role(id);
  if (role?.kind === 'hidden') return undefined;
  if (role !== undefined) {
    if (role.face.isMasked) return undefined;
    return edit(event, [1], () => Buffer.from(role.face.slot.id));
  }
  for (const value of fieldsOf(event, 5)) {
    if (textIn(value, NUMBERS['ContainerStatus.id']) !== id) continue;
    if (!isStray(table, value, NUMBERS['ContainerStatus.labels'])) continue;
    table.noteStray(id);
    return undefined;
  }
  return event;
}

/** A container of Gantry's of which the table has not been told yet. */
function isStray(table: SlotTable, value: Uint8Array, labels: number): boolean {
  return table.isUnsettled && textMapIn(value, labels).has(SLOT_LABEL);
}
