import { Command } from 'commander';
import { exists } from '../durable.ts';
import { GantryError } from '../errors.ts';
import { type Slot, SlotPhase } from '../gen/gantry/v1/slots.ts';
import { type Inspection, inspect } from '../inspect/inspection.ts';
import { openAll } from '../inspect/open.ts';
import { tablesOf } from '../inspect/text.ts';
import { Slots } from '../surgery/slots.ts';
import { FileProgress, formatTables, identitiesIn, identityOption, interruptible } from './checkpoint-files.ts';
import { type Format, formatJson, formatTable, outputOption } from './output.ts';

interface Options {
  memory: boolean;
  files: boolean;
  sockets: boolean;
  mounts: boolean;
  volumes: boolean;
  env: boolean;
  all: boolean;
  identity: string[];
  cri: string;
  outputFormat: Format;
}

/** `gantry inspect`: a checkpoint, or a slot and its history. */
export function inspectCommand(): Command {
  return new Command('inspect')
    .description('show what is in a checkpoint; or a slot: who is in it, and what has been done to it')
    .argument('<what>', 'archive or folder of a checkpoint; or ID (virtual or real), ID prefix or name of a slot')
    .option('--memory', 'of a checkpoint: memory of each process by mapping', false)
    .option('--files', 'of a checkpoint: open files', false)
    .option('--sockets', 'of a checkpoint: sockets, their peers and state', false)
    .option('--mounts', 'of a checkpoint: mounts', false)
    .option('--volumes', 'of a checkpoint: volumes and /dev/shm, how many files they have and of what size', false)
    .option('--env', 'of a checkpoint: environment of each process; there may be secrets in it', false)
    .option('--all', 'of a checkpoint: all of these, the environment too, and how long the dump took', false)
    .addOption(identityOption())
    .option('--cri <socket>', "of a slot: the relay's socket", '/run/gantry/cri.sock')
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
What has a "/" in it, or is the name of a file or folder that exists, is a checkpoint: one of gantry's, or as far as they
tell, of containerd, CRI-O and Podman. -o json tells everything of it but the environment, which needs --env or --all.

Examples:
  gantry inspect /var/tmp/redis.tar --sockets
  gantry inspect redis.tar.age --identity key.txt -o json | jq ".processes[].commandLine.words"
  gantry inspect redis -o json | jq ".history[-1]"`,
    )
    .action(async (wanted: string, options: Options) => {
      if (wanted.includes('/') || (await exists(wanted))) {
        await inspectCheckpoint(wanted, options);
        return;
      }
      using slots = new Slots(options.cri);
      const slot = choose(await slots.list(), wanted);
      console.log(options.outputFormat === 'json' ? formatJson(summaryOf(slot)) : textOf(slot));
    });
}

function inspectCheckpoint(path: string, options: Options): Promise<void> {
  return interruptible(async (signal) => {
    const { all } = options;
    const environment = options.env || all;
    using progress = new FileProgress('gantry inspect');
    const identities = await identitiesIn(options.identity);
    const onUnpacked = (bytes: number) => progress.unpacked(bytes);
    await using opened = await openAll(path, { identities, signal, onUnpacked });
    const containers: Inspection[] = [];
    for (const one of opened.containers) containers.push(await inspect(one, { environment, signal }));
    progress.clear();
    if (options.outputFormat === 'json') {
      console.log(formatJson(opened.pod === undefined ? containers[0] : { ...opened.pod, containers }));
      return;
    }
    const sections = {
      memory: options.memory || all,
      files: options.files || all,
      sockets: options.sockets || all,
      mounts: options.mounts || all,
      volumes: options.volumes || all,
      environment,
      statistics: all,
    };
    console.log(containers.map((one) => formatTables(tablesOf(one, sections))).join('\n\n\n'));
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
