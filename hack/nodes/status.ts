import type { LabRecord, Service } from './registry.ts';
import { isAlive, serviceProcess } from './services.ts';

/** What `hack/lab status -o json` prints. */
export interface LabStatus {
  readonly name: string;
  readonly state: LabRecord['state'];
  readonly suite: string;
  readonly repo: string;
  readonly subnet: string;
  readonly clientAddress: string;
  readonly nodes: readonly NodeStatus[];
}

interface NodeStatus {
  readonly name: string;
  readonly address: string;
  readonly pid: number;
  readonly alive: boolean;
  /** PID inside the node and on the host; null when the service does not run. */
  readonly services: Partial<Record<Service, { pid: number; hostPid: number } | null>>;
}

export async function statusOf(lab: LabRecord): Promise<LabStatus> {
  const { name, state, suite, repo, subnet, clientAddress } = lab;
  const nodes = await Promise.all(
    lab.nodes.map(async (node) => {
      const alive = await isAlive(lab, node);
      const services: NodeStatus['services'] = {};
      for (const service of lab.services) {
        services[service] = alive ? ((await serviceProcess(lab, node, service)) ?? null) : null;
      }
      return { ...node, alive, services };
    }),
  );
  return { name, state, suite, repo, subnet, clientAddress, nodes };
}

/** The same for people. */
export function statusTable(status: LabStatus): string {
  const services = [...new Set(status.nodes.flatMap((node) => Object.keys(node.services) as Service[]))];
  const rows = [
    ['NODE', 'ADDRESS', 'PID', ...services.map((service) => service.toUpperCase())],
    ...status.nodes.map((node) => [
      node.name,
      node.address,
      node.alive ? String(node.pid) : 'ended',
      ...services.map((service) => String(node.services[service]?.pid ?? 'not running')),
    ]),
  ];
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  const lines = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  const { name, suite, subnet, clientAddress, repo } = status;
  const title = `lab ${name}: ${suite}, ${subnet}, this machine is ${clientAddress}, from ${repo}`;
  return [title, ...lines].join('\n');
}
