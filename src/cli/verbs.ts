import type { Command } from 'commander';

/** Every verb, in the order in which help lists them. Each loads what it needs and nothing else: a command starts at once. */
const VERBS: Readonly<Record<string, () => Promise<Command>>> = {
  ps: async () => (await import('./ps.ts')).psCommand(),
  inspect: async () => (await import('./inspect.ts')).inspectCommand(),
  swap: async () => (await import('./surgery.ts')).swapCommand(),
  rollback: async () => (await import('./surgery.ts')).rollbackCommand(),
  remove: async () => (await import('./surgery.ts')).removeCommand(),
  insert: async () => (await import('./surgery.ts')).insertCommand(),
  commit: async () => (await import('./retention.ts')).commitCommand(),
  release: async () => (await import('./retention.ts')).releaseCommand(),
  check: async () => (await import('./check.ts')).checkCommand(),
  migrate: async () => (await import('./migrate.ts')).migrateCommand(),
  migrations: async () => (await import('./migrations.ts')).migrationsCommand(),
  checkpoint: async () => (await import('./checkpoint.ts')).checkpointCommand(),
  resume: async () => (await import('./resume.ts')).resumeCommand(),
  restore: async () => (await import('./restore.ts')).restoreCommand(),
  diff: async () => (await import('./diff.ts')).diffCommand(),
  list: async () => (await import('./list.ts')).listCommand(),
  verify: async () => (await import('./verify.ts')).verifyCommand(),
  prune: async () => (await import('./prune.ts')).pruneCommand(),
  agent: async () => (await import('./agent.ts')).agentCommand(),
  proxy: async () => (await import('./proxy.ts')).proxyCommand(),
  pki: async () => (await import('./pki.ts')).pkiCommand(),
};

/** The one that is called, or all of them, for help and for one that there is not. */
export function verbs(called = ''): Promise<Command[]> {
  const one = Object.hasOwn(VERBS, called) ? VERBS[called] : undefined;
  return one === undefined ? Promise.all(Object.values(VERBS).map((load) => load())) : Promise.all([one()]);
}
