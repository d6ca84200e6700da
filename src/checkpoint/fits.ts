import { readdir, readFile } from 'node:fs/promises';
import { arch } from 'node:os';
import { join } from 'node:path';
import { decodeImage } from '../criu/image.ts';
import { GantryError } from '../errors.ts';
import { coresIn } from './cores.ts';

/** CRIU's names of architectures, by Node's. */
const ARCHITECTURES: Readonly<Record<string, string>> = {
  x64: 'X86_64',
  arm: 'ARM',
  arm64: 'AARCH64',
  ppc64: 'PPC64',
  s390x: 'S390',
  mips: 'MIPS',
  loong64: 'LOONGARCH64',
  riscv64: 'RISCV64',
};

/** Parts of the processor's state that a program of x86 has used (XSTATE_BV), by bit, and the flag of /proc/cpuinfo that says they exist. */
const STATES: readonly (readonly [bit: bigint, flag: string])[] = [
  [2n, 'avx'],
  [3n, 'mpx'],
  [5n, 'avx512f'],
  [9n, 'pku'],
  [18n, 'amx_tile'],
];

/** What this node's kernel and processor have. */
export interface Host {
  readonly architecture: string;
  /** Kinds of namespaces. */
  readonly namespaces: readonly string[];
  /** Of the processor, as /proc/cpuinfo has them. */
  readonly flags: ReadonlySet<string>;
  /** Security modules that are on. */
  readonly lsm: readonly string[];
}

export async function thisHost(): Promise<Host> {
  const text = (path: string) => readFile(path, 'utf8').catch(() => '');
  const [namespaces, cpu, lsm] = await Promise.all([
    readdir('/proc/self/ns'),
    text('/proc/cpuinfo'),
    text('/sys/kernel/security/lsm'),
  ]);
  return {
    architecture: arch(),
    namespaces,
    flags: new Set(/^(?:flags|Features)\s*:(.*)$/m.exec(cpu)?.[1]?.trim().split(/\s+/)),
    lsm: lsm.trim().split(','),
  };
}

/**
 * Whether processes could be put back on this node at all, before anything is touched. Errors: NOT_FITTING, with what
 * is missing; BAD_ARCHIVE.
 *
 * @param images folder of CRIU's images
 */
export async function checkFits(images: string, host: Host): Promise<void> {
  const needs = await needsOf(images);
  const here = ARCHITECTURES[host.architecture] ?? host.architecture;
  if (needs.architecture !== here) {
    throw notFitting(`it was made on ${needs.architecture}, and this node is ${here}`, 'restore it on such a node');
  }
  const states = STATES.filter(([bit]) => (needs.states >> bit) & 1n).map(([, flag]) => flag);
  const flags = states.filter((flag) => !host.flags.has(flag));
  if (here === 'X86_64' && flags.length > 0) {
    throw notFitting(
      `its processes have used ${flags.join(', ')}, which this processor has not`,
      'restore it on a node with a processor of that kind or a later one',
    );
  }
  if (needs.hasTimeNamespace && !host.namespaces.includes('time')) {
    throw notFitting('its clock needs a time namespace, which this kernel has not', 'Linux 5.6 and later have them');
  }
  if (needs.lsm !== undefined && !host.lsm.includes(needs.lsm)) {
    throw notFitting(
      `its processes are confined by ${needs.lsm}, which is not on here`,
      'restore it on a node where it is',
    );
  }
}

interface Needs {
  readonly architecture: string;
  readonly states: bigint;
  readonly hasTimeNamespace: boolean;
  readonly lsm: string | undefined;
}

async function needsOf(images: string): Promise<Needs> {
  const names = await readdir(images).catch((error: unknown) => {
    throw new GantryError('NOT_FOUND', `there are no images in ${images}`, { cause: error });
  });
  const architectures = new Set<string>();
  let states = 0n;
  for await (const { core } of coresIn(images)) {
    architectures.add(core.mtype);
    states |= core.thread_info?.fpregs?.xsave?.xstate_bv ?? 0n;
  }
  const [architecture = 'UNKNOWN'] = architectures;
  const inventory = names.includes('inventory.img')
    ? decodeImage('inventory.img', await readFile(join(images, 'inventory.img')), 'INVENTORY').entries[0]
    : undefined;
  const lsm = inventory?.lsmtype?.toLowerCase();
  return {
    architecture,
    states,
    hasTimeNamespace: names.some((name) => name.startsWith('timens-')),
    lsm: lsm === undefined || lsm === 'no_lsm' ? undefined : lsm,
  };
}

function notFitting(why: string, hint: string): GantryError {
  return new GantryError('NOT_FITTING', `the checkpoint does not fit this node: ${why}`, { hint });
}
