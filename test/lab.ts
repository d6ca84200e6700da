import { join } from 'node:path';
import { execa } from 'execa';
import { enterNode, nodeEnvironment } from '../hack/nodes/enter.ts';
import { environmentOf, type LabEnvironment, type NodeEnvironment } from '../hack/nodes/environment.ts';
import { labThatIsUp, nodeOf, type Service } from '../hack/nodes/registry.ts';

export type { LabEnvironment, NodeEnvironment, Service };

/** The command itself, for tests of it. */
export const LAB = join(import.meta.dirname, '../hack/lab');

export interface LabOptions {
  /** Names of tests begin with "t-", so that they never meet a lab that a person has started. */
  readonly name: string;
  /** How many; 2 when left out. */
  readonly nodes?: number;
  readonly suite?: 'forky' | 'trixie' | 'bookworm';
  /** All when left out. */
  readonly services?: readonly Service[];
  /** "flat" when left out. */
  readonly network?: 'flat' | 'routed';
  /** IPv6 beside IPv4. */
  readonly ipv6?: boolean;
}

/** Starts a lab and tells how to reach it. One of that name that an earlier run has left is removed first. */
export async function labUp(options: LabOptions): Promise<LabEnvironment> {
  const { name, nodes = 2, suite = 'forky', services, network = 'flat', ipv6 = false } = options;
  await labDown(name);
  const args = ['up', '--name', name, '--nodes', String(nodes), '--suite', suite, '--network', network];
  if (ipv6) args.push('--ipv6');
  await execa(LAB, [...args, ...(services === undefined ? [] : ['--services', services.join(',')])], {
    stdin: 'ignore',
  });
  return labEnv(name);
}

/** Removes a lab; one that does not exist is fine. */
export async function labDown(name: string): Promise<void> {
  await execa(LAB, ['down', '--name', name], { stdin: 'ignore' });
}

/** Cuts the power of a node and starts it again; its sockets are elsewhere afterwards, as the answer says. */
export async function labReboot(name: string, node: string): Promise<LabEnvironment> {
  await execa(LAB, ['reboot', '--name', name, node], { stdin: 'ignore' });
  return labEnv(name);
}

/** What `hack/lab env` prints, without starting a program. */
export async function labEnv(name: string): Promise<LabEnvironment> {
  return environmentOf(await labThatIsUp(name));
}

export interface ExecResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number | undefined;
}

/** Runs a command on a node, as `hack/lab exec` does. Throws when it fails, unless `reject` is false. */
export async function labExec(
  name: string,
  node: string,
  args: readonly string[],
  options: { reject?: boolean; input?: string; timeoutMs?: number } = {},
): Promise<ExecResult> {
  const { reject = true, input, timeoutMs = 60_000 } = options;
  const lab = await labThatIsUp(name);
  const [file = '', ...rest] = enterNode(lab, nodeOf(lab, node), args);
  const { stdout, stderr, exitCode } = await execa(file, rest, {
    reject,
    timeout: timeoutMs,
    cwd: '/',
    extendEnv: false,
    env: nodeEnvironment(),
    ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
  });
  return { stdout, stderr, exitCode };
}
