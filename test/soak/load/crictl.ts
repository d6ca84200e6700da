import { Caller } from '../caller.ts';
import type { Target } from '../target.ts';
import { repeat } from './pace.ts';
import { execute } from './probes.ts';
import { reads } from './reads.ts';

const CALLS_BETWEEN_EXECS = 16;

/** A connection for each call, some calls a second, as from a person with crictl or a monitoring agent. */
export async function crictlLoad(target: Target): Promise<void> {
  const caller = new Caller('crictl', target, undefined);
  const { all } = reads(target);
  let turn = 0;
  await repeat(200, target.signal, async () => {
    turn += 1;
    if (turn % CALLS_BETWEEN_EXECS === 0) await execute(caller, target.pods[turn % target.pods.length], 0);
    else await all[turn % all.length]?.(caller);
  });
}
