import { Metadata } from '@grpc/grpc-js';
import { Command } from 'commander';
import { GantryError, REASONS, type Reason } from '../errors.ts';
import { AgentService, type Migration, type MigrationEvent } from '../gen/gantry/v1/agent.ts';
import { formatBytes, printable } from '../inspect/units.ts';
import { connectSocket, unary } from '../runtime/grpc.ts';
import { agentOption, fromAgent } from './operation.ts';
import { type Format, formatJson, formatTable, outputOption } from './output.ts';
import { ProgressLine } from './progress.ts';

/** A rollback ends what was begun on both nodes. */
const CANCEL_LIMIT_MS = 120_000;

interface Options {
  agent: string;
  outputFormat: Format;
}

/** `gantry migrations`: those of this node, in both directions, also when they are over. */
export function migrationsCommand(): Command {
  return new Command('migrations')
    .description('list, show, watch and cancel the migrations of this node')
    .addCommand(listCommand(), { isDefault: true })
    .addCommand(showCommand())
    .addCommand(watchCommand())
    .addCommand(cancelCommand())
    .addHelpText(
      'after',
      `
Examples:
  gantry migrations
  gantry migrations watch 4f1c
  gantry migrations cancel 4f1c`,
    );
}

function listCommand(): Command {
  return verb('list', 'list them, the newest first').action(async (options: Options) => {
    const migrations = await list(options.agent, '');
    console.log(options.outputFormat === 'json' ? formatJson(migrations.map(summaryOf)) : tableOf(migrations));
  });
}

function showCommand(): Command {
  return verb('show', 'tell all about one, with its timeline')
    .argument('<id>', 'ID, or unambiguous ID prefix')
    .action(async (id: string, options: Options) => {
      const [migration] = await list(options.agent, id);
      if (migration !== undefined) print(migration, options);
    });
}

function watchCommand(): Command {
  return new Command('watch')
    .description('follow those that run, or one until it is over; it then exits as that one did')
    .exitOverride()
    .argument('[id]', 'ID, or unambiguous ID prefix', '')
    .addOption(agentOption())
    .action(async (id: string, options: { agent: string }) => {
      const last = await watch(options.agent, id);
      if (id === '' || last === undefined) return;
      console.log(`migration ${last.id}: ${outcomeOf(last)}`);
      if (last.state === 'serving' || last.state === 'settling') return;
      throw new GantryError(reasonOf(last), printable(last.message) || `it is over: ${last.state}`);
    });
}

function cancelCommand(): Command {
  return verb('cancel', 'roll one back that this node is the source of, and wait until that is done')
    .argument('<id>', 'ID, or unambiguous ID prefix')
    .action(async (id: string, options: Options) => {
      const cancelled = await ask(options.agent, (client) =>
        unary(client, AgentService.cancelMigration, { id }, { timeoutMs: CANCEL_LIMIT_MS }),
      );
      if (options.outputFormat === 'json') console.log(formatJson(summaryOf(cancelled)));
      else console.log(`migration ${cancelled.id}: ${cancelled.state}, ${podOf(cancelled)} goes on here`);
    });
}

function verb(name: string, description: string): Command {
  return new Command(name).description(description).addOption(agentOption()).addOption(outputOption()).exitOverride();
}

async function ask<T>(socket: string, question: (client: ReturnType<typeof connectSocket>) => Promise<T>): Promise<T> {
  const client = connectSocket(socket);
  try {
    return await question(client);
  } catch (error) {
    throw fromAgent(error, socket);
  } finally {
    client.close();
  }
}

function list(socket: string, id: string): Promise<Migration[]> {
  return ask(socket, async (client) => {
    const { migrations } = await unary(client, AgentService.listMigrations, { id }, { timeoutMs: 10_000 });
    return migrations;
  });
}

/** Shows the progress of those that run until the one is over, or Ctrl-C. Returns what was said last of the one. */
async function watch(socket: string, id: string): Promise<Migration | undefined> {
  return ask(socket, async (client) => {
    const { path, requestSerialize, responseDeserialize } = AgentService.watchMigrations;
    const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, { id }, new Metadata());
    const progress = new ProgressLine(process.stderr);
    let isInterrupted = false;
    const interrupt = () => {
      isInterrupted = true;
      call.cancel();
    };
    process.once('SIGINT', interrupt);
    process.once('SIGTERM', interrupt);
    let last: Migration | undefined;
    try {
      for await (const { id: of, event, migration } of call as AsyncIterable<MigrationEvent>) {
        if (event !== undefined) progress.show(event, id === '' ? `${of} ` : '');
        if (migration === undefined) continue;
        last = migration;
        if (id === '') progress.note(`${of} ${podOf(migration)} ${wayOf(migration)}: ${outcomeOf(migration)}`);
      }
    } catch (error) {
      if (!isInterrupted) throw error;
      last = undefined;
    } finally {
      process.off('SIGINT', interrupt);
      process.off('SIGTERM', interrupt);
      progress.clear();
    }
    return last;
  });
}

function print(migration: Migration, { outputFormat }: Options): void {
  if (outputFormat === 'json') {
    console.log(formatJson(summaryOf(migration)));
    return;
  }
  const { id, mode, containers, frozenMs, bytes, startedUnixMs, endedUnixMs, phases } = migration;
  const time = (unixMs: number) => (unixMs === 0 ? '-' : new Date(unixMs).toISOString());
  const rows = phases.map(({ name, startMs, durationMs }) => [name, startMs.toFixed(0), durationMs.toFixed(0)]);
  console.log(
    [
      formatTable([
        ['migration', id],
        ['pod', `${podOf(migration)} ${wayOf(migration)}`],
        ['containers', containers.map((each) => each.slice(0, 13)).join(', ') || '-'],
        ['mode', mode || '-'],
        ['state', outcomeOf(migration)],
        ['started', time(startedUnixMs)],
        ['ended', time(endedUnixMs)],
        ['frozen', frozenMs > 0 ? `${frozenMs.toFixed(0)} ms` : '-'],
        ['sent', formatBytes(Number(bytes))],
      ]),
      '',
      formatTable([['PHASE', 'START MS', 'MS'], ...rows]),
    ].join('\n'),
  );
}

function tableOf(migrations: readonly Migration[]): string {
  const rows = migrations.map((migration) => [
    migration.id,
    migration.direction,
    podOf(migration),
    migration.peer,
    migration.mode || '-',
    migration.state,
    migration.running.join(', ') || '-',
    ageOf(migration.startedUnixMs),
    migration.frozenMs > 0 ? migration.frozenMs.toFixed(0) : '-',
    formatBytes(Number(migration.bytes)),
  ]);
  const heading = ['ID', 'DIRECTION', 'POD', 'PEER', 'MODE', 'STATE', 'PHASE', 'AGE', 'FROZEN MS', 'SENT'];
  return formatTable([heading, ...rows.map((row) => row.map(printable))]);
}

/** For JSON: times as everywhere else, null for one that is not over. */
function summaryOf({ startedUnixMs, endedUnixMs, ...migration }: Migration) {
  return {
    ...migration,
    startedAt: new Date(startedUnixMs).toISOString(),
    endedAt: endedUnixMs === 0 ? null : new Date(endedUnixMs).toISOString(),
  };
}

function podOf({ namespace, pod }: Migration): string {
  return printable([namespace, pod].filter(Boolean).join('/')) || 'a pod';
}

function wayOf({ direction, peer }: Migration): string {
  return printable(`${direction === 'out' ? 'to' : 'from'} ${peer}`);
}

function outcomeOf({ state, message }: Migration): string {
  return message === '' ? state : `${state} (${printable(message)})`;
}

function reasonOf({ reason }: Migration): Reason {
  return reason in REASONS ? (reason as Reason) : 'INTERNAL';
}

function ageOf(unixMs: number): string {
  const seconds = Math.max(0, Math.round((Date.now() - unixMs) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86_400)}d`;
}
