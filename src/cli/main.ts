import { Command, CommanderError } from 'commander';
import { GantryError } from '../errors.ts';
import { printError } from './output.ts';
import { verbs } from './verbs.ts';

const program = new Command('gantry')
  .description('Moves running, stateful pods between Kubernetes nodes.')
  .version(process.env.GANTRY_VERSION ?? 'development', '-V, --version')
  // What stands after a verb is the verb's: verbs within verbs have an -o of their own.
  .enablePositionalOptions()
  .showHelpAfterError('(gantry --help tells more)')
  .addHelpText(
    'after',
    `
Examples:
  gantry ps                                     what runs on this node
  gantry migrate redis --to node-b              move a running container to another node
  gantry checkpoint redis --output /var/tmp/c --leave-running --tcp-established
  gantry restore /var/tmp/c --sandbox 3f2a…     start it from there, in a sandbox that exists

Exit codes: 0 done, 2 wrong usage, 130 cancelled; docs/exit-codes.md lists the rest.`,
  );

for (const command of await verbs(process.argv[2])) program.addCommand(command.exitOverride());
program.exitOverride();

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // commander has printed it; 0 for --help and --version.
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    const failure = GantryError.from(error);
    printError(failure, process.argv);
    process.exitCode = failure.exitCode;
  }
}
