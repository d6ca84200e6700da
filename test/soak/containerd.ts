import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { labThatIsUp, nodeOf } from '../../hack/nodes/registry.ts';
import { serviceProcess } from '../../hack/nodes/services.ts';
import { RuntimeServiceService as Runtime } from '../../src/gen/cri.ts';
import { unary } from '../../src/runtime/grpc.ts';
import { crictlClient } from './channels.ts';
import type { RuntimeFault } from './faults.ts';
import { PLAN } from './plan.ts';

const POLL_MS = 5;

/** The node's containerd, killed and then watched from beside the relays. */
export class Containerd {
  readonly #lab: string;
  readonly #socket: string;

  constructor(lab: string, socket: string) {
    this.#lab = lab;
    this.#socket = socket;
  }

  /**
   * Kills it. `killed` is told at once; the fault's further times are filled in as they come.
   *
   * @returns when it answers again. Throws when it does not in time
   */
  async kill(killed: (fault: RuntimeFault) => void): Promise<void> {
    const pid = await this.#pid();
    const fault: RuntimeFault = { kind: 'containerd-killed', at: performance.now() };
    process.kill(pid, 'SIGKILL');
    killed(fault);
    const limit = fault.at + PLAN.runtimeReturnLimitMs;
    // A child that is only just being started still has a copy of the listening socket.
    fault.gone = await until('ends', limit, async () => hasEnded(pid) && !(await this.#accepts()));
    fault.accepting = await until('takes connections again', limit, () => this.#accepts());
    fault.answering = await until('answers again', limit, () => this.#answers());
  }

  async #pid(): Promise<number> {
    const lab = await labThatIsUp(this.#lab);
    const found = await serviceProcess(lab, nodeOf(lab, 'a'), 'containerd');
    if (found === undefined) throw new Error('containerd does not run');
    return found.hostPid;
  }

  async #accepts(): Promise<boolean> {
    const socket = connect(this.#socket);
    try {
      await once(socket, 'connect');
      return true;
    } catch {
      return false;
    } finally {
      socket.on('error', () => undefined).destroy();
    }
  }

  async #answers(): Promise<boolean> {
    const client = crictlClient(this.#socket);
    try {
      await unary(client, Runtime.version, { version: '' }, { timeoutMs: 2000 });
      return true;
    } catch {
      return false;
    } finally {
      client.close();
    }
  }
}

/** When something became so. */
async function until(what: string, limit: number, isSo: () => boolean | Promise<boolean>): Promise<number> {
  while (!(await isSo())) {
    if (performance.now() > limit)
      throw new Error(`waited ${PLAN.runtimeReturnLimitMs / 1000} s until containerd ${what}`);
    await sleep(POLL_MS);
  }
  return performance.now();
}

/** Whether a process has been reaped: all its threads, and so all its descriptors, are gone. */
function hasEnded(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return false;
  } catch {
    return true;
  }
}
