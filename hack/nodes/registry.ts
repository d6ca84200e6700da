import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EXIT, ifPresent, LabError } from './failure.ts';
import { REGISTRY } from './paths.ts';
import type { Network } from './subnet.ts';

const VERSION = 1;

export const SERVICES = ['containerd', 'proxy', 'agent'] as const;
export type Service = (typeof SERVICES)[number];

export interface NodeRecord {
  readonly name: string;
  readonly address: string;
  /** PID of the node's PID 1, as the host sees it. */
  readonly pid: number;
}

/** What is known of a lab, in REGISTRY/NAME.json: enough for `down` from another clone. */
export interface LabRecord {
  readonly version: typeof VERSION;
  readonly name: string;
  /** The clone that started it; its files lie below. */
  readonly repo: string;
  readonly suite: string;
  readonly services: readonly Service[];
  readonly network?: Network;
  readonly ipv6?: boolean;
  readonly subnet: string;
  readonly clientAddress: string;
  readonly state: 'starting' | 'up';
  /** The `up` that makes it; with its start time, as PIDs are used again. */
  readonly starter: { readonly pid: number; readonly startTime: string };
  readonly nodes: readonly NodeRecord[];
}

export async function readRecord(name: string): Promise<LabRecord | undefined> {
  const text = await ifPresent(readFile(fileOf(name), 'utf8'), undefined);
  if (text === undefined) return undefined;
  const record = JSON.parse(text) as LabRecord;
  if (record.version !== VERSION) {
    throw new LabError(`lab ${name} was made by another version of the lab (record version ${record.version})`, {
      hint: `use hack/lab of ${record.repo}`,
    });
  }
  return record;
}

export async function writeRecord(record: LabRecord): Promise<void> {
  await mkdir(REGISTRY, { recursive: true });
  const file = fileOf(record.name);
  await writeFile(`${file}.new`, `${JSON.stringify(record, null, 2)}\n`);
  await rename(`${file}.new`, file);
}

export async function removeRecord(name: string): Promise<void> {
  await rm(fileOf(name), { force: true });
  await rm(`${fileOf(name)}.new`, { force: true });
}

export async function recordedLabs(): Promise<string[]> {
  const files = await ifPresent(readdir(REGISTRY), []);
  return files.filter((file) => file.endsWith('.json')).map((file) => file.slice(0, -'.json'.length));
}

/** The record of a lab that is up. */
export async function labThatIsUp(name: string): Promise<LabRecord> {
  const record = await readRecord(name);
  if (record === undefined) {
    const others = await recordedLabs();
    throw new LabError(`there is no lab "${name}"`, {
      hint:
        others.length > 0 ? `--name takes one of: ${others.join(', ')}` : `start it with: hack/lab up --name ${name}`,
      exitCode: EXIT.notFound,
    });
  }
  if (record.state !== 'up') {
    throw new LabError(`lab "${name}" is not up yet, or its start was cut off`, {
      hint: `wait for it, or remove it with: hack/lab down --name ${name}`,
      exitCode: EXIT.notFound,
    });
  }
  return record;
}

export function nodeOf(record: LabRecord, name: string): NodeRecord {
  const node = record.nodes.find((candidate) => candidate.name === name);
  if (node !== undefined) return node;
  throw new LabError(`lab "${record.name}" has no node "${name}"`, {
    hint: `it has: ${record.nodes.map((each) => each.name).join(', ')}`,
    exitCode: EXIT.notFound,
  });
}

/**
 * The start time of a process in clock ticks since boot (proc_pid_stat(5), field 22), or undefined when it does not
 * run, be it that its parent has not taken note yet.
 */
export async function startTimeOf(pid: number | 'self'): Promise<string | undefined> {
  const stat = await ifPresent(readFile(`/proc/${pid}/stat`, 'utf8'), undefined);
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields === undefined || /[ZX]/.test(fields[0] ?? '') ? undefined : fields[19];
}

/** Whether the `up` that made this record still runs. */
export async function isStarting(record: LabRecord): Promise<boolean> {
  return record.state === 'starting' && (await startTimeOf(record.starter.pid)) === record.starter.startTime;
}

function fileOf(name: string): string {
  return join(REGISTRY, `${name}.json`);
}
