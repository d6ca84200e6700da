import { Command } from 'commander';
import { readConfig } from '../agent/config.ts';
import { serveAgent } from '../agent/server.ts';
import { logToStderr } from '../log.ts';

/** `gantry agent`: the daemon of a node. */
export function agentCommand(): Command {
  return new Command('agent')
    .description("run this node's agent (a daemon)")
    .option('--config <file>', 'configuration, JSON', '/etc/gantry/agent.json')
    .addHelpText(
      'after',
      `
Runs as root on every node, in the foreground; its log is JSON lines on standard error. When it starts it first
finishes or rolls back what an agent that died has left. docs/operations.md explains the configuration.`,
    )
    .action(async (options: { config: string }) => {
      const stop = new AbortController();
      process.on('SIGTERM', () => stop.abort());
      process.on('SIGINT', () => stop.abort());
      await serveAgent(await readConfig(options.config), logToStderr(), stop.signal);
      process.exit(0);
    });
}
