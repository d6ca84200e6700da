import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { join } from 'node:path';
import { ContainerConfig, ContainerStatus, ContainerStatusRequest } from '../../../src/gen/cri.ts';
import { Slot } from '../../../src/gen/gantry/v1/slots.ts';
import { silentLog } from '../../../src/log.ts';
import { SlotTable } from '../../../src/proxy/slots/table.ts';
import { Cri } from '../../../src/runtime/cri.ts';
import { request } from '../relay/client.ts';
import { type Latency, latencies } from '../relay/latency.ts';
import type { BenchNode } from '../relay/node.ts';
import { appears, spawnRelay } from '../relay/ways.ts';

const COUNTS = [0, 1, 100];

export interface Latencies {
  readonly call: string;
  readonly ways: Record<string, Latency>;
}

/** Relays in front of one runtime, which know so many of its containers as slots. */
export async function withSlots(
  node: BenchNode,
  folder: string,
  calls: number,
  signal: AbortSignal,
): Promise<Latencies[]> {
  const relays: ChildProcess[] = [];
  try {
    const ways = [{ name: 'direct', path: node.runtimeSocket }];
    const ids = new Map<string, string>();
    for (const count of COUNTS) {
      const name = `gantry, ${count} slots`;
      const stateDir = join(folder, `state-${count}`);
      ids.set(name, await makeSlots(node, stateDir, count));
      const path = join(folder, `${count}.sock`);
      relays.push(spawnRelay(path, node.runtimeSocket, '--state-dir', stateDir));
      await appears(path);
      ways.push({ name, path });
    }
    const list = await latencies(ways, request('ListContainers', Buffer.alloc(0)), calls, signal);
    const results = [{ call: `ListContainers of 300, answer of about ${list.bytes} bytes`, ways: list.latencies }];
    for (const [name, id] of ids) {
      if (id === '') continue;
      const body = ContainerStatusRequest.encode({ containerId: id, verbose: false }).finish();
      const own = ways.filter((way) => way.name === name);
      const plain = ContainerStatusRequest.encode({ containerId: node.containers[299] ?? '', verbose: false }).finish();
      const direct = await latencies(ways.slice(0, 1), request('ContainerStatus', plain), calls, signal);
      const through = await latencies(own, request('ContainerStatus', body), calls, signal);
      results.push({ call: `ContainerStatus of a slot, ${name}`, ways: { ...direct.latencies, ...through.latencies } });
    }
    return results;
  } finally {
    for (const relay of relays) {
      if (relay.exitCode !== null) continue;
      const exited = once(relay, 'exit');
      relay.kill();
      await exited;
    }
  }
}

/** As the agent makes them, of the first containers; the ID of the last one. */
async function makeSlots(node: BenchNode, stateDir: string, count: number): Promise<string> {
  const table = await SlotTable.open(join(stateDir, 'slots'), silentLog);
  using cri = new Cri(node.runtimeSocket);
  let id = '';
  for (const occupant of node.containers.slice(0, count)) {
    const [{ status }, detail] = await Promise.all([cri.containerStatus(occupant), cri.describe(occupant)]);
    if (status === undefined) throw new Error(`there is no container ${occupant}`);
    id = randomBytes(32).toString('hex');
    await table.put(
      Slot.fromPartial({
        id,
        sandboxId: detail.sandbox.id,
        name: detail.name,
        occupant,
        face: Buffer.from(ContainerStatus.encode({ ...status, id }).finish()),
        config: Buffer.from(ContainerConfig.encode(detail.config).finish()),
      }),
    );
  }
  return id;
}
