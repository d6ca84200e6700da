import { Argument, Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { EXIT, LabError } from './failure.ts';
import { SERVICES, type Service } from './registry.ts';
import { NETWORKS, type Network } from './subnet.ts';
import { SUITE_NAMES } from './suites.ts';

// Parsing and printing only. What a verb needs is imported when it runs: `exec` then starts in a fraction of the time.

const nameOption = () => new Option('--name <lab>', 'which lab').default('default').argParser(parseName);
const suiteOption = () =>
  new Option('--suite <suite>', 'Debian release of the nodes').choices(SUITE_NAMES).default('forky');
const outputOption = () =>
  new Option('-o, --output <format>', 'how to print it').choices(['table', 'json']).default('table');
const nodeArgument = () => new Argument('<node>', 'a, b, c…');

interface UpCommand {
  name: string;
  nodes: number;
  suite: string;
  services: Service[];
  network: Network;
  ipv6: boolean;
}

const program = new Command('hack/lab')
  .description('Nodes in a box: a small cluster of container hosts on this machine, with Gantry on each. Needs root.')
  .showHelpAfterError('(hack/lab --help tells more)')
  .addHelpText(
    'after',
    `
Each node has a Debian root of its own with containerd, runc, crun and CRIU, its own network, processes, mounts and
cgroups, and an address on one flat network that this machine and all pods are on too.

Examples:
  hack/lab up                                   two nodes, a and b; 2 s, and the first time a minute to make a root
  hack/lab exec a -- ctr -n k8s.io images ls    run something on a node
  hack/lab logs b containerd -f                 watch a service
  hack/lab kill a containerd                    kill it; its supervisor starts it again
  hack/lab reboot a                             cut its power, and start it again
  hack/lab env                                  addresses and sockets, as JSON, for programs
  hack/lab down                                 leave nothing behind

Several labs can be up at once under different --name. docs/lab.md explains how it is made.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such lab or node, 8 already up, 130 interrupted.`,
  );

program
  .command('root')
  .description("make the nodes' root folder and the container images, which `up` otherwise makes when they are missing")
  .addOption(suiteOption())
  .action(async (options: { suite: string }) => {
    const [{ ensureRoot }, { ensureImages }, { suiteNamed }] = await Promise.all([
      import('./root.ts'),
      import('./images.ts'),
      import('./suites.ts'),
    ]);
    const signal = untilInterrupted();
    const suite = suiteNamed(options.suite);
    const root = await ensureRoot(suite, signal);
    console.log(root);
    console.log(await ensureImages(suite, root, signal));
  });

program
  .command('up')
  .description('start a lab; what was made is removed again when it fails or is interrupted')
  .addOption(nameOption())
  .option('--nodes <n>', 'how many, from 1 to 26', parseCount, 2)
  .addOption(suiteOption())
  .addOption(
    new Option('--services <list>', `what runs on each node, of ${SERVICES.join(', ')}`)
      .default([...SERVICES], SERVICES.join(','))
      .env('GANTRY_LAB_SERVICES')
      .argParser(parseServices),
  )
  .addOption(
    new Option('--network <kind>', 'pods are neighbours of all, or in a subnet of their node')
      .choices(NETWORKS)
      .default('flat'),
  )
  .option('--ipv6', 'an IPv6 address for each node and pod, beside the IPv4 one', false)
  .action(async (options: UpCommand) => {
    const { up } = await import('./up.ts');
    const lab = await up(options, untilInterrupted());
    console.log(`lab ${lab.name} is up on ${lab.subnet}; this machine is ${lab.clientAddress}`);
    for (const node of lab.nodes) console.log(`  ${node.name}  ${node.address}`);
  });

program
  .command('down')
  .description('remove a lab, also one that is half-made or was started from another clone')
  .addOption(nameOption())
  .option('--all', 'remove every lab on this machine')
  .action(async (options: { name: string; all?: true }) => {
    const { down, knownLabs } = await import('./down.ts');
    for (const name of options.all ? await knownLabs() : [options.name]) await down(name);
  });

program
  .command('status')
  .description('tell what runs')
  .addOption(nameOption())
  .addOption(outputOption())
  .action(async (options: { name: string; output: 'table' | 'json' }) => {
    const { lab } = await find(options.name);
    const { statusOf, statusTable } = await import('./status.ts');
    const status = await statusOf(lab);
    console.log(options.output === 'json' ? JSON.stringify(status, null, 2) : statusTable(status));
  });

program
  .command('exec')
  .description("run a command on a node; input, output and exit code are the command's")
  .addOption(nameOption())
  .addArgument(nodeArgument())
  .argument('<command...>', 'after --')
  .action(async (name: string, command: string[], options: { name: string }) => {
    const { lab, node } = await findNode(options.name, name);
    const { becomeInNode } = await import('./enter.ts');
    becomeInNode(lab, node, command);
  });

program
  .command('logs')
  .description("print a node's logs")
  .addOption(nameOption())
  .addArgument(nodeArgument())
  .argument('[service]', `${SERVICES.join(', ')} or init; all of them when left out`)
  .option('-f, --follow', 'go on printing what is added')
  .action(async (name: string, service: string | undefined, options: { name: string; follow?: true }) => {
    const { labThatIsUp, nodeOf } = await import('./registry.ts');
    const { becomeTail } = await import('./logs.ts');
    const lab = await labThatIsUp(options.name);
    await becomeTail(lab, nodeOf(lab, name), service, options.follow ?? false);
  });

program
  .command('env')
  .description('print addresses, sockets and image names as JSON')
  .addOption(nameOption())
  .action(async (options: { name: string }) => {
    const { lab } = await find(options.name);
    const { environmentOf } = await import('./environment.ts');
    console.log(JSON.stringify(environmentOf(lab), null, 2));
  });

program
  .command('kill')
  .description('SIGKILL a service of a node; its supervisor starts it again 0.2 s later')
  .addOption(nameOption())
  .addArgument(nodeArgument())
  .addArgument(new Argument('<service>', 'which one').choices(SERVICES))
  .action(async (name: string, service: Service, options: { name: string }) => {
    const { lab, node } = await findNode(options.name, name);
    const { killService } = await import('./services.ts');
    const { before, after } = await killService(lab, node, service);
    console.log(`${service} on ${node.name}: killed PID ${before.pid}, started again as PID ${after.pid}`);
  });

program
  .command('reboot')
  .description('cut the power of a node and start it again with what is on its disk')
  .addOption(nameOption())
  .addArgument(nodeArgument())
  .action(async (name: string, options: { name: string }) => {
    const { reboot } = await import('./up.ts');
    const { pid } = await reboot(options.name, name, untilInterrupted());
    console.log(`node ${name} is up again, as PID ${pid}`);
  });

for (const command of [program, ...program.commands]) command.exitOverride();

try {
  if (process.getuid?.() !== 0 && process.argv.slice(2).some((word) => !word.startsWith('-'))) {
    throw new LabError('the lab makes namespaces, mounts and interfaces: it needs root', { hint: 'sudo hack/lab …' });
  }
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}

async function find(name: string) {
  const { labThatIsUp } = await import('./registry.ts');
  return { lab: await labThatIsUp(name) };
}

async function findNode(labName: string, nodeName: string) {
  const { lab } = await find(labName);
  const { nodeOf } = await import('./registry.ts');
  const { refuseDeadNode } = await import('./services.ts');
  const node = nodeOf(lab, nodeName);
  await refuseDeadNode(lab, node);
  return { lab, node };
}

/** Says what went wrong and gives the exit code. */
function report(error: unknown): number {
  // commander has already printed its own; 0 for --help.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT.usage;
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  if (!(error instanceof LabError)) {
    console.error(error);
    return EXIT.failed;
  }
  if (error.hint !== '') console.error(`next: ${error.hint}`);
  return error.exitCode;
}

/** A signal stops the work, and what was made of it is undone; a second one ends that too, and `down` cleans up. */
function untilInterrupted(): AbortSignal {
  const controller = new AbortController();
  const interrupted = () => {
    if (controller.signal.aborted) process.exit(EXIT.cancelled);
    controller.abort(new LabError('interrupted', { exitCode: EXIT.cancelled }));
  };
  // Not `once`: execa takes a signal that nobody listens to any more as the end, and ends this process.
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, interrupted);
  return controller.signal;
}

function parseName(text: string): string {
  if (/^[a-z0-9][a-z0-9-]{0,30}$/.test(text)) return text;
  throw new InvalidArgumentError('A name has up to 31 small letters, digits and hyphens.');
}

function parseCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= 26) return count;
  throw new InvalidArgumentError('It takes a whole number from 1 to 26.');
}

function parseServices(text: string): Service[] {
  const names = text.split(',').filter(Boolean);
  const unknown = names.filter((name) => !(SERVICES as readonly string[]).includes(name));
  if (unknown.length > 0) throw new InvalidArgumentError(`There is no service ${unknown.join(', ')}.`);
  return SERVICES.filter((service) => names.includes(service));
}
