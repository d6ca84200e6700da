import { randomUUID } from 'node:crypto';
import { RuntimeServiceService as Runtime } from '../../../src/gen/cri.ts';
import type { Pod } from '../../pods.ts';
import type { Caller, Outcome } from '../caller.ts';
import type { CallRecord } from '../judgement.ts';
import { PLAN } from '../plan.ts';
import type { Target } from '../target.ts';
import { repeat } from './pace.ts';
import { unless } from './reads.ts';

// Nearly always in flight, and over before a drain is.
const LONG_SECONDS = 3;

/** Exec probes: short ones now and then, and one after the other that takes some seconds. */
export async function probeLoad(target: Target, caller: Caller): Promise<void> {
  let turn = 0;
  const next = () => target.pods[turn++ % target.pods.length];
  await Promise.all([
    repeat(5000, target.signal, () => execute(caller, next(), 0.2)),
    repeat(100, target.signal, () => target.longCalls.through(() => execute(caller, next(), LONG_SECONDS))),
  ]);
}

/** Runs a command that says a word of its own after some seconds. */
export async function execute(
  caller: Caller,
  pod: Pick<Pod, 'container'> | undefined,
  seconds: number,
  after?: CallRecord,
): Promise<Outcome<unknown>> {
  if (pod === undefined) throw new Error('there is no pod to execute in');
  const word = randomUUID();
  const wait = seconds > 0 ? `sleep ${seconds}; ` : '';
  return caller.call(
    Runtime.execSync,
    { containerId: pod.container, cmd: ['sh', '-c', `${wait}echo ${word}`], timeout: 20n },
    {
      timeoutMs: PLAN.slowCallMs,
      after,
      fault: ({ stdout, stderr, exitCode }) =>
        unless(
          String(stdout) === `${word}\n` && exitCode === 0,
          `exit code ${exitCode}, said "${String(stdout)}" instead of "${word}", and "${String(stderr)}"`,
        ),
    },
  );
}
