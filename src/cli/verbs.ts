import type { Command } from 'commander';
import { agentCommand } from './agent.ts';
import { checkCommand } from './check.ts';
import { checkpointCommand } from './checkpoint.ts';
import { diffCommand } from './diff.ts';
import { inspectCommand } from './inspect.ts';
import { listCommand } from './list.ts';
import { migrateCommand } from './migrate.ts';
import { pkiCommand } from './pki.ts';
import { proxyCommand } from './proxy.ts';
import { pruneCommand } from './prune.ts';
import { psCommand } from './ps.ts';
import { restoreCommand } from './restore.ts';
import { insertCommand, removeCommand, rollbackCommand, swapCommand } from './surgery.ts';
import { verifyCommand } from './verify.ts';

/** Every verb, in the order in which help lists them. */
export function verbs(): Command[] {
  return [
    psCommand(),
    inspectCommand(),
    swapCommand(),
    rollbackCommand(),
    removeCommand(),
    insertCommand(),
    checkCommand(),
    migrateCommand(),
    checkpointCommand(),
    restoreCommand(),
    diffCommand(),
    listCommand(),
    verifyCommand(),
    pruneCommand(),
    agentCommand(),
    proxyCommand(),
    pkiCommand(),
  ];
}
