import { join } from 'node:path';
import type { LabEnvironment, NodeEnvironment } from '../lab.ts';
import { type Pod, runPod } from '../pods.ts';
import { copyBuild } from './build.ts';
import { Containerd } from './containerd.ts';
import { RELAYS, type RelayName } from './faults.ts';
import { type Figures, figuresOf } from './figures.ts';
import { Gate } from './gate.ts';
import { judgeMemory } from './growth.ts';
import { Injector, noteEnd } from './inject.ts';
import { Journal } from './journal.ts';
import { Load } from './load/load.ts';
import { pause, repeat } from './load/pace.ts';
import { LoopLag } from './loop-lag.ts';
import { PLAN, RELAY } from './plan.ts';
import { Progress, progressLine } from './progress.ts';
import { QuietMoments } from './quiet.ts';
import { type RelayEvent, RelayProcess } from './relay-process.ts';
import { type Sample, sample } from './samples.ts';

const STEADY_PODS = 3;

export interface SoakOptions {
  readonly lab: LabEnvironment;
  /** Whose build is tested. */
  readonly repository: string;
  /** For sockets and a copy of the build; removed by the caller. */
  readonly folder: string;
  readonly lengthMs: number;
  /** Ends it early. */
  readonly interrupted: AbortSignal;
}

/** Runs load and faults for some time, and tells what came of it. What it starts has ended when it returns. */
export async function soak(options: SoakOptions): Promise<Figures> {
  const { lab, folder, lengthMs, interrupted } = options;
  const node = lab.nodes[0];
  if (node === undefined) throw new Error('the lab has no node');
  const pods = await steadyPods(lab, node);
  const program = await copyBuild(options.repository, join(folder, 'build'));

  let beganAt = performance.now();
  let progress: Progress | undefined;
  const journal = new Journal(RELAY, (offence) => progress?.offence(offence, beganAt));
  await using restarted = await startRelay('restarted', journal, { program, folder, upstream: node.runtimeSocket });
  await using steady = await startRelay('steady', journal, { program, folder, upstream: node.runtimeSocket });
  const relays = [restarted, steady];
  interrupted.throwIfAborted();

  const noMoreLoad = new AbortController();
  const over = AbortSignal.any([interrupted, AbortSignal.timeout(lengthMs)]);
  const loads = relays.map(({ name: relay, socket }) => {
    const gates = { gate: new Gate(), longCalls: new Gate() };
    return new Load({ relay, socket, journal, ...gates, pods, images: lab.images, signal: noMoreLoad.signal });
  });
  const faultGate = new Gate();
  const quiet = new QuietMoments(relays, loads, faultGate, journal);
  const samples: Sample[] = [];
  using lag = new LoopLag();
  beganAt = performance.now();
  const injector = new Injector({
    journal,
    relay: restarted,
    containerd: new Containerd(lab.name, node.runtimeSocket),
    loads,
    gate: faultGate,
    lag,
    beganAt,
    endsAt: beganAt + lengthMs,
    signal: over,
  });
  using _progress = new Progress(() =>
    progressLine(
      journal,
      performance.now() - beganAt,
      lengthMs,
      samples.findLast(({ relay }) => relay === 'steady'),
    ),
  );
  progress = _progress;

  const loading = Promise.all(loads.map((load) => load.run()));
  const sampling = repeat(PLAN.sampleEveryMs, noMoreLoad.signal, async () => {
    samples.push(...(await sampleAll(relays)));
    journal.judge('settled');
  });
  try {
    // What fails here fails at once, and not when the time is up.
    await Promise.race([
      Promise.all([injector.run(), quietMoments(quiet, over), pause(lengthMs, over)]),
      loading.then(() => undefined),
      sampling,
    ]);
    if (!interrupted.aborted) await quiet.take();
  } finally {
    noMoreLoad.abort();
    await Promise.allSettled([loading, sampling]);
    for (const load of loads) load.close();
  }
  await loading;
  const endedAt = performance.now();
  journal.judge('all');
  judgeGrowth(journal, samples);
  return figuresOf({
    journal,
    loads,
    quiet,
    samples,
    incarnations: restarted.incarnations,
    beganAt,
    endedAt,
    interrupted: interrupted.aborted,
    loopLagMs: lag.maxMs,
  });
}

/** Pods that are there all the time, made without the relays. */
async function steadyPods(lab: LabEnvironment, node: NodeEnvironment): Promise<Pod[]> {
  const pods: Pod[] = [];
  for (let count = 1; count <= STEADY_PODS; count += 1) {
    const plan = { name: `steady-${count}`, image: lab.images.busybox, command: ['sleep', '1000000'] };
    pods.push(await runPod(node.runtimeSocket, node.pid, plan));
  }
  return pods;
}

function startRelay(
  name: RelayName,
  journal: Journal,
  where: { program: string; folder: string; upstream: string },
): Promise<RelayProcess> {
  return RelayProcess.start({
    name,
    ...where,
    onEnd: (ended) => noteEnd(journal, name, ended),
    onEvent: (event) => noteEvent(journal, name, event),
  });
}

/** What the relay itself calls an error is one, whether or not a call failed with it. */
function noteEvent(journal: Journal, relay: RelayName, event: RelayEvent): void {
  if (event.level !== 'error') return;
  const at = performance.now();
  journal.offence({ at, relay, what: event.event, why: 'the relay logged an error', message: JSON.stringify(event) });
}

async function quietMoments(quiet: QuietMoments, over: AbortSignal): Promise<void> {
  await pause(PLAN.quietEveryMs / 2, over);
  await repeat(PLAN.quietEveryMs, over, () => quiet.take());
}

async function sampleAll(relays: readonly RelayProcess[]): Promise<Sample[]> {
  const taken = relays.map(({ name, current, isServing }) =>
    current === undefined || !isServing ? undefined : sample(name, current.pid),
  );
  return (await Promise.all(taken)).filter((each) => each !== undefined);
}

function judgeGrowth(journal: Journal, samples: readonly Sample[]): void {
  for (const relay of RELAYS) {
    if (relay !== 'steady') continue;
    const memory = judgeMemory(samples.filter((each) => each.relay === relay));
    if (memory?.grows !== true) continue;
    journal.offence({
      at: performance.now(),
      relay,
      what: 'memory',
      why: 'it grows',
      message: `from ${memory.warmBytes} to ${memory.endBytes} bytes; ${Math.round(memory.allowedBytes)} more are allowed`,
    });
  }
}
