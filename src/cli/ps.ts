import { Command } from 'commander';
import { type Container, ContainerState, PodSandboxState } from '../gen/cri.ts';
import type { Slot } from '../gen/gantry/v1/slots.ts';
import { Cri } from '../runtime/cri.ts';
import { Slots } from '../surgery/slots.ts';
import { stateOf } from './inspect.ts';
import { type Format, formatJson, formatTable, outputOption } from './output.ts';

const STATES: Record<number, string> = {
  [ContainerState.CONTAINER_CREATED]: 'created',
  [ContainerState.CONTAINER_RUNNING]: 'running',
  [ContainerState.CONTAINER_EXITED]: 'exited',
};

/** `gantry ps`: sandboxes and containers, as everybody sees them through the relay. */
export function psCommand(): Command {
  return new Command('ps')
    .description('list the sandboxes and containers of this node')
    .option('--cri <socket>', "the relay's socket (or containerd's own)", '/run/gantry/cri.sock')
    .addOption(outputOption())
    .addHelpText('after', '\nExample:\n  gantry ps -o json | jq ".[].containers[].id"')
    .action(async (options: { cri: string; outputFormat: Format }) => {
      using cri = new Cri(options.cri);
      using client = new Slots(options.cri);
      const [sandboxes, containers, slots] = await Promise.all([
        cri.listSandboxes(),
        cri.listContainers(),
        // containerd's own socket has none, and shows everything as it is.
        client.list().catch(() => []),
      ]);
      const byId = new Map(slots.map((slot) => [slot.id, slot]));
      const listed = sandboxes.map((sandbox) => ({
        id: sandbox.id,
        name: sandbox.metadata?.name ?? '',
        namespace: sandbox.metadata?.namespace ?? '',
        state: sandbox.state === PodSandboxState.SANDBOX_READY ? 'ready' : 'not ready',
        createdAt: new Date(Number(sandbox.createdAt / 1_000_000n)).toISOString(),
        containers: [
          ...containers
            .filter(({ podSandboxId }) => podSandboxId === sandbox.id)
            .map((container) => summary(container, byId.get(container.id))),
          ...slots
            .filter(({ extra, occupant, sandboxId }) => extra && occupant !== '' && sandboxId === sandbox.id)
            .map(extraSummary),
        ],
      }));
      console.log(options.outputFormat === 'json' ? formatJson(listed) : formatTable(rows(listed)));
    });
}

/** An extra container has no virtual ID, and no client of the CRI is told of it. */
function extraSummary({ name, occupant, exit, history }: Slot): ReturnType<typeof summary> {
  const last = history.at(-1);
  return {
    id: '',
    name,
    attempt: 0,
    state: exit === undefined ? 'running' : 'exited',
    image: last?.image ?? '',
    createdAt: new Date(last?.startedUnixMs ?? 0).toISOString(),
    slot: 'extra',
    realId: occupant,
  };
}

function summary({ id, metadata, state, image, createdAt }: Container, slot: Slot | undefined) {
  return {
    id,
    name: metadata?.name ?? '',
    attempt: metadata?.attempt ?? 0,
    state: STATES[state] ?? 'unknown',
    image: image?.userSpecifiedImage || image?.image || '',
    createdAt: new Date(Number(createdAt / 1_000_000n)).toISOString(),
    /** What the container is a slot for: "occupied", "empty", "stopped", or the operation under way. */
    slot: slot === undefined ? '' : stateOf(slot),
    realId: slot === undefined ? id : slot.occupant,
  };
}

interface Listed {
  id: string;
  name: string;
  namespace: string;
  state: string;
  containers: ReturnType<typeof summary>[];
}

function rows(sandboxes: readonly Listed[]): string[][] {
  const short = (id: string) => id.slice(0, 13);
  return [
    ['NAMESPACE', 'POD', 'SANDBOX', 'STATE', 'CONTAINER', 'ID', 'STATE', 'IMAGE', 'SLOT', 'REAL ID'],
    ...sandboxes.flatMap(({ id, name, namespace, state, containers }) => {
      const pod = [namespace, name, short(id), state];
      if (containers.length === 0) return [[...pod, '-', '-', '-', '-', '-', '-']];
      return containers.map((container) => [
        ...pod,
        container.name,
        short(container.id) || '-',
        container.state,
        container.image || '-',
        container.slot || '-',
        short(container.realId) || '-',
      ]);
    }),
  ];
}
