import { Command } from 'commander';
import { GantryError } from '../errors.ts';
import { type Slot, SlotPhase } from '../gen/gantry/v1/slots.ts';
import { Slots } from '../surgery/slots.ts';
import { type Format, formatJson, formatTable, outputOption } from './output.ts';

/** `gantry inspect`: a slot and its history. */
export function inspectCommand(): Command {
  return new Command('inspect')
    .description('show a slot: who is in it, who is behind it, and what has been done to it')
    .argument('<container>', 'ID (virtual or real), ID prefix or name of a slot')
    .option('--cri <socket>', "the relay's socket", '/run/gantry/cri.sock')
    .addOption(outputOption())
    .addHelpText('after', '\nExample:\n  gantry inspect redis -o json | jq ".history[-1]"')
    .action(async (wanted: string, options: { cri: string; outputFormat: Format }) => {
      using slots = new Slots(options.cri);
      const slot = choose(await slots.list(), wanted);
      console.log(options.outputFormat === 'json' ? formatJson(summaryOf(slot)) : textOf(slot));
    });
}

function choose(slots: readonly Slot[], wanted: string): Slot {
  const byId = slots.filter(
    (slot) => wanted.length >= 3 && [slot.id, slot.occupant].some((id) => id.startsWith(wanted)),
  );
  const found = byId.length > 0 ? byId : slots.filter(({ name }) => name === wanted);
  const [slot] = found;
  if (slot !== undefined && found.length === 1) return slot;
  throw new GantryError(
    'NOT_FOUND',
    found.length > 1 ? `"${wanted}" means ${found.length} slots` : `no slot ${wanted}`,
    {
      hint: 'a container has a slot once something has been done to it: gantry ps',
    },
  );
}

/** What users are told of a slot; its configuration is kubelet's, and may hold secrets. */
export function summaryOf(slot: Slot) {
  const { id, sandboxId, name, extra, occupant, hidden, phase, operation, retained, history, exit } = slot;
  return {
    id: extra ? '' : id,
    sandboxId,
    name,
    kind: extra ? 'extra' : 'slot',
    state: stateOf(slot),
    container: occupant,
    behind: hidden,
    phase: phase === SlotPhase.SETTLED ? 'settled' : phase === SlotPhase.CHANGING ? 'changing' : 'trying',
    operation,
    retained: retained && { ...retained, until: new Date(retained.untilUnixMs).toISOString() },
    exit,
    history: history.map((change) => ({ ...change, started: new Date(change.startedUnixMs).toISOString() })),
  };
}

export function stateOf({ occupant, operation, exit, extra }: Slot): string {
  if (operation !== undefined) return operation.verb;
  if (exit !== undefined) return 'stopped';
  if (occupant === '') return 'empty';
  return extra ? 'extra' : 'occupied';
}

function textOf(slot: Slot): string {
  const { id, sandboxId, container, behind, state, name, retained, history } = summaryOf(slot);
  const facts = [
    ['name', name],
    ['state', state],
    ['virtual ID', id || '(none: kubelet does not see it)'],
    ['real ID', container || '(none)'],
    ['sandbox', sandboxId],
    ['behind it', behind.map((one) => one.slice(0, 13)).join(', ') || '(none)'],
    [
      'retained',
      retained
        ? `${retained.containerId.slice(0, 13)}${retained.frozen ? ', frozen' : ''} until ${retained.until}`
        : '(none)',
    ],
  ];
  const changes = history.map(({ started, verb, who, changeOverMs, before, after, image, result }) => [
    started,
    verb,
    who,
    changeOverMs.toFixed(0),
    before.slice(0, 13) || '-',
    after.slice(0, 13) || '-',
    image || '-',
    result,
  ]);
  const table = [['STARTED', 'VERB', 'WHO', 'CHANGE-OVER MS', 'BEFORE', 'AFTER', 'IMAGE', 'RESULT'], ...changes];
  return `${formatTable(facts)}\n\n${formatTable(table)}`;
}
