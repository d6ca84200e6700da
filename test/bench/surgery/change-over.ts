import { Cri } from '../../../src/runtime/cri.ts';
import { Kubelet } from '../../kubelet.ts';
import { labDown, labUp } from '../../lab.ts';
import { operate } from '../../surgery.ts';
import { at } from '../relay/latency.ts';

const LAB = 't-bench-surgery';
// It ends as soon as it is asked to: what is measured is not its own.
const SERVE = ['sh', '-c', 'trap "exit 0" TERM; while :; do sleep 1000 & wait; done'];

export interface ChangeOver {
  readonly name: string;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** Each kind in turns, on pods of their own of one node. */
export async function changeOvers(count: number, signal: AbortSignal): Promise<ChangeOver[]> {
  const lab = await labUp({ name: LAB, nodes: 1 });
  try {
    const [node] = lab.nodes;
    if (node === undefined) throw new Error('the lab has no node');
    await using kubelet = new Kubelet(node.criSocket);
    using cri = new Cri(node.runtimeSocket);
    const image = lab.images.busybox;
    const configJson = JSON.stringify({ command: SERVE });
    const plain = await kubelet.runPod('plain', image, SERVE);
    const swapped = await kubelet.runPod('swapped', image, SERVE);
    const frozen = await kubelet.runPod('frozen', image, SERVE);
    let current = plain.container;
    let attempt = 0;
    const create = () => {
      attempt += 1;
      const config = {
        ...plain.config,
        metadata: { name: 'main', attempt, _unknownFields: {} },
        logPath: `main/${attempt}.log`,
      };
      return cri.createContainer(plain.sandbox, config, plain.sandboxConfig);
    };
    const exchange = async (createFirst: boolean): Promise<number> => {
      const made = createFirst ? await create() : '';
      const began = performance.now();
      await cri.stopContainer(current, 5);
      const next = made || (await create());
      await cri.startContainer(next);
      const taken = performance.now() - began;
      await cri.removeContainer(current);
      current = next;
      return taken;
    };
    const swap = async (target: string, keepState: boolean): Promise<number> =>
      (await operate(node.agentSocket, 'swap', { target, configJson, keepState, settleMs: 0, retainSeconds: 0 }))
        .changeOverMs;
    const kinds: [string, () => Promise<number>][] = [
      ['CRI: stop, create, start', () => exchange(false)],
      ['CRI: stop, start (created before)', () => exchange(true)],
      ['gantry swap', () => swap(swapped.container, false)],
      ['gantry swap --keep-state', () => swap(frozen.container, true)],
    ];
    const taken = new Map(kinds.map(([name]) => [name, [] as number[]]));
    for (let round = -2; round < count; round++) {
      for (const [name, kind] of kinds) {
        signal.throwIfAborted();
        const ms = await kind();
        if (round >= 0) taken.get(name)?.push(ms);
      }
    }
    return [...taken].map(([name, times]) => ({ name, p50Ms: at(times, 0.5), p99Ms: at(times, 0.99) }));
  } finally {
    await labDown(LAB);
  }
}
