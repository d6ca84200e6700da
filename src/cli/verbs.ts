import type { Command } from 'commander';
import { agentCommand } from './agent.ts';
import { checkpointCommand } from './checkpoint.ts';
import { inspectCommand } from './inspect.ts';
import { migrateCommand } from './migrate.ts';
import { pkiCommand } from './pki.ts';
import { proxyCommand } from './proxy.ts';
import { psCommand } from './ps.ts';
import { restoreCommand } from './restore.ts';
import { insertCommand, removeCommand, rollbackCommand, swapCommand } from './surgery.ts';

/** Every verb, in the order in which help lists them. */
export function verbs(): Command[] {
  return [
    psCommand(),
    inspectCommand(),
    swapCommand(),
    rollbackCommand(),
    removeCommand(),
    insertCommand(),
    migrateCommand(),
    checkpointCommand(),
    restoreCommand(),
    agentCommand(),
    proxyCommand(),
    pkiCommand(),
  ];
}
