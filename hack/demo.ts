import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, CommanderError } from 'commander';
import { ExecaError } from 'execa';
import { AgentService, type InfoResponse } from '../src/gen/gantry/v1/agent.ts';
import { connectSocket, unary } from '../src/runtime/grpc.ts';
import { labDown, labExec, labUp, type NodeEnvironment } from '../test/lab.ts';
import { RedisScenario, runningOn } from '../test/scenario.ts';
import { Narrator } from './demo/narrator.ts';
import { arrow, faultsOf, mib, printMoves, printOutcome, recordOf, type Versions } from './demo/report.ts';

const LAB_NAME = 'demo';
const RECORD = join(import.meta.dirname, '../out/demo.json');
const MEBIBYTES = 64;
const EXIT = { failed: 1, usage: 2, interrupted: 130 };

/** Not all is as it should be. */
class DemoError extends Error {}

class Interrupted extends Error {}

const narrator = new Narrator();

const program = new Command('node_modules/.bin/node hack/demo.ts')
  .description('A Redis with an open connection moves to another node and back. "make demo" runs it.')
  .option('--keep', 'leave the lab up, to look around in it', false)
  .addHelpText(
    'after',
    `
It starts a lab of two nodes, runs a Redis with ${MEBIBYTES} MiB of random values on node a, and has a client on this machine,
outside both nodes, increment a counter a thousand times a second over one connection that it never opens again. Then
"gantry migrate" moves the pod to b and back to a. Every answer is checked: none may be missing or come twice.

The chart shows what each move consisted of, and below, on the same axis, the longest time that the client waited.
The same figures are in out/demo.json. It takes about 15 seconds.

Needs root, and what "make build root" makes. A lab named "${LAB_NAME}" that is there already is removed first; other labs
are left alone. docs/lab.md tells about the lab, docs/architecture.md about the move.
Exit codes: 0 all as it should be, 1 something was lost or failed, 2 wrong usage, 130 interrupted.`,
  )
  .exitOverride()
  .action(async ({ keep }: { keep: boolean }) => {
    const signal = untilInterrupted();
    try {
      await demo(signal);
    } catch (error) {
      // What fails because of the interrupt is not worth telling.
      signal.throwIfAborted();
      throw error;
    } finally {
      if (keep) explainKept();
      else
        await narrator.step(
          'lab',
          'removing it',
          () => labDown(LAB_NAME),
          () => 'removed',
        );
    }
  });

// A reader that goes away (`make demo | head`) must not keep the lab from being removed.
process.stdout.on('error', () => undefined);
try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}
// Interrupted steps may still be waiting for something of the lab, which is gone.
process.exit();

/** The whole story. Throws when it does not end as it should. */
async function demo(signal: AbortSignal): Promise<void> {
  const step: Narrator['step'] = (label, doing, action, done) =>
    narrator.step(label, doing, () => orInterrupted(action(), signal), done);

  narrator.heading('A Redis with an open connection moves to another node and back');
  // Not cut short: `hack/lab up` gets the terminal's Ctrl-C too and undoes itself, which has to be waited for.
  const lab = await narrator.step(
    'lab',
    'starting two nodes',
    () => labUp({ name: LAB_NAME }),
    ({ nodes }, took) => `${nodes.map(({ name, address }) => `node ${name} at ${address}`).join(', ')}: up in ${took}`,
  );
  signal.throwIfAborted();
  const scenario = await step(
    'pod',
    `starting Redis, writing ${MEBIBYTES} MiB`,
    async () => {
      const started = await RedisScenario.start(lab);
      await started.fill(MEBIBYTES);
      return started;
    },
    ({ node, pod }) => `redis on ${node.name} at ${pod.address}, with ${MEBIBYTES} MiB of random values`,
  );
  const versions = await versionsOf(lab.nodes[0] as NodeEnvironment);
  await step(
    'client',
    'connecting',
    async () => {
      await scenario.connect();
      await sleep(1000);
    },
    () => `${lab.clientAddress}, this machine: one connection, 1000 increments a second, each answer checked`,
  );
  await moveTo('b', 2);
  await moveTo('a', 1);
  const outcome = await step(
    'client',
    'comparing the data',
    () => scenario.finish(),
    (_outcome, took) => `closes its connection; the data are read once more, in ${took}`,
  );

  printMoves(narrator, scenario);
  printOutcome(narrator, scenario, outcome, versions);
  await mkdir(join(RECORD, '..'), { recursive: true });
  await writeFile(RECORD, `${JSON.stringify(recordOf(scenario, outcome, versions), null, 2)}\n`);
  narrator.item('written', 'out/demo.json');
  const faults = faultsOf(outcome);
  if (faults.length > 0) throw new DemoError(faults.join('; '));

  async function moveTo(to: string, goOnSeconds: number): Promise<void> {
    const command = `gantry migrate redis --to ${to}`;
    const from = scenario.node.name;
    const move = await step(
      `${from} → ${to}`,
      command,
      () => scenario.move(to),
      ({ migration }, took) => `${command}: ${mib(migration)}, done in ${took}`,
    );
    const running = await runningOn(lab, 'redis');
    if (running.join() !== to) {
      throw new DemoError(
        `after ${arrow(move)} redis is RUNNING on ${running.join(' and ') || 'no node'}, not on ${to} alone`,
      );
    }
    await step(
      '',
      'the client goes on',
      () => sleep(goOnSeconds * 1000),
      () => `RUNNING on ${to} only; the client goes on`,
    );
  }
}

/** The agent knows the versions of what it works with. */
async function versionsOf(node: NodeEnvironment): Promise<Versions> {
  const client = connectSocket(node.agentSocket);
  try {
    const info: InfoResponse = await unary(client, AgentService.info, {}, { timeoutMs: 10_000 });
    const { stdout } = await labExec(LAB_NAME, node.name, ['/opt/gantry/node_modules/.bin/node', '--version']);
    const { containerd = '', runc = '', criu = '', kernel = '' } = info.versions;
    // "containerd v2.1.9" and "v26.10.0": numbers alone, as the others are.
    const number = (text: string) => /\d\S*/.exec(text)?.[0] ?? text;
    return { gantry: info.version, node: number(stdout), containerd: number(containerd), runc, criu, kernel };
  } finally {
    client.close();
  }
}

function explainKept(): void {
  narrator.heading(`The lab "${LAB_NAME}" is left up`);
  narrator.say(`  hack/lab exec --name ${LAB_NAME} a -- gantry ps`);
  narrator.say(`  hack/lab exec --name ${LAB_NAME} a -- gantry migrate redis --to b`);
  narrator.say(`  hack/lab logs --name ${LAB_NAME} a agent`);
  narrator.say(`  hack/lab down --name ${LAB_NAME}          removes it`);
}

/** A signal ends the story, and the lab is removed; a second one ends that too. */
function untilInterrupted(): AbortSignal {
  const controller = new AbortController();
  const interrupted = () => {
    if (controller.signal.aborted) {
      console.error(`\nleft as it is; remove the lab with: hack/lab down --name ${LAB_NAME}`);
      process.exit(EXIT.interrupted);
    }
    controller.abort(new Interrupted('interrupted'));
  };
  // Not `once`: execa takes a signal that nobody listens to any more as the end, and ends this process.
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, interrupted);
  return controller.signal;
}

/** What `action` gives, unless the signal comes first. What is left of the action then fails with the lab it works on. */
function orInterrupted<Value>(action: Promise<Value>, signal: AbortSignal): Promise<Value> {
  const { promise, reject } = Promise.withResolvers<never>();
  const interrupt = () => reject(signal.reason);
  signal.addEventListener('abort', interrupt);
  if (signal.aborted) interrupt();
  return Promise.race([action, promise]).finally(() => signal.removeEventListener('abort', interrupt));
}

/** Says what went wrong and gives the exit code. */
function report(error: unknown): number {
  // commander has already printed its own; 0 for --help.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT.usage;
  if (error instanceof Interrupted) {
    console.error('interrupted');
    return EXIT.interrupted;
  }
  console.error(`\nFAILED: ${messageOf(error)}`);
  return EXIT.failed;
}

/** Of a program that failed, what it said itself: hack/lab names the cause and what to do next. */
function messageOf(error: unknown): string {
  if (error instanceof ExecaError) return String(error.stderr ?? '').trim() || error.shortMessage;
  return error instanceof Error ? error.message : String(error);
}
