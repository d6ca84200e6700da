import { linesOf } from './read.ts';

/** What CRIU does with a mapping's pages; "file" ones are not dumped, the others are told apart by docs/check.md. */
export type AreaKind = 'lazy' | 'shared' | 'copied' | 'locked' | 'huge' | 'file';

/** One mapping, from /proc/PID/smaps. */
export interface Area {
  readonly pid: number;
  readonly start: number;
  readonly end: number;
  readonly kind: AreaKind;
  readonly writable: boolean;
  readonly name: string;
  /** "device inode", which tells objects apart that several processes share. */
  readonly object: string;
  readonly inode: number;
  /** Present pages that CRIU would dump. */
  readonly bytes: number;
  readonly swapped: number;
  /** Somebody fills it on demand (userfaultfd): whoever reads it may wait for that one. */
  readonly isOnDemand: boolean;
  /** Memory of a device. */
  readonly isDevice: boolean;
}

export interface MemoryFacts {
  readonly bytes: Readonly<Record<Exclude<AreaKind, 'file'>, number>>;
  readonly swapped: number;
}

export async function areasOf(pid: number): Promise<Area[]> {
  return parseSmaps(pid, await linesOf(`/proc/${pid}/smaps`));
}

/** Pure. */
export function parseSmaps(pid: number, lines: readonly string[]): Area[] {
  const areas: Area[] = [];
  let head: RegExpExecArray | undefined;
  let fields: Record<string, number> = {};
  let flags: string[] = [];
  const finish = () => {
    if (head !== undefined) areas.push(area(pid, head, fields, flags));
  };
  for (const line of lines) {
    const next = /^([0-9a-f]+)-([0-9a-f]+) (....) [0-9a-f]+ (\S+) (\d+)\s*(.*)$/.exec(line);
    if (next !== null) {
      finish();
      [head, fields, flags] = [next, {}, []];
      continue;
    }
    const [name = '', rest = ''] = line.split(':');
    if (name === 'VmFlags') flags = rest.trim().split(' ');
    else fields[name] = Number.parseInt(rest, 10) * 1024;
  }
  finish();
  return areas;
}

function area(pid: number, head: RegExpExecArray, fields: Record<string, number>, flags: readonly string[]): Area {
  const [, start = '', end = '', access = '', device = '', inode = '0', name = ''] = head;
  const field = (key: string) => fields[key] ?? 0;
  const isShared = access[3] === 's';
  const isAnonymous = inode === '0' || isMemoryObject(name);
  const kind = kindOf(flags, isShared, isAnonymous, name);
  const rss = field('Rss');
  const anonymous = field('Anonymous') + field('Swap');
  const dumped: Record<AreaKind, number> = {
    lazy: anonymous,
    locked: isAnonymous ? Math.max(anonymous, isShared ? rss : 0) : anonymous,
    copied: anonymous,
    shared: rss + field('Swap'),
    huge: field('Private_Hugetlb') + field('Shared_Hugetlb'),
    file: 0,
  };
  return {
    pid,
    start: Number.parseInt(start, 16),
    end: Number.parseInt(end, 16),
    kind,
    writable: access[1] === 'w',
    name,
    object: `${device} ${inode}`,
    inode: Number(inode),
    bytes: dumped[kind],
    swapped: kind === 'file' ? 0 : field('Swap'),
    isOnDemand: ['um', 'uw', 'ui'].some((flag) => flags.includes(flag)),
    isDevice: name.startsWith('/dev/') && !isMemoryObject(name) && (flags.includes('io') || flags.includes('pf')),
  };
}

function kindOf(flags: readonly string[], isShared: boolean, isAnonymous: boolean, name: string): AreaKind {
  if (/^\[(vdso|vvar|vvar_vclock|vsyscall|uprobes)\]$/.test(name)) return 'file';
  if (flags.includes('ht')) return 'huge';
  if (isShared && !isAnonymous) return 'file';
  if (flags.includes('lo')) return 'locked';
  if (isShared) return 'shared';
  return isAnonymous ? 'lazy' : 'copied';
}

/** Memory that the kernel gives a name like a file's. */
function isMemoryObject(name: string): boolean {
  return /^(\/memfd:|\/SYSV|\/dev\/zero( |$)|\/anon_hugepage|\/secretmem)/.test(name);
}

/** Pure: sums by kind; an object that several mappings show counts once. */
export function sumOf(areas: readonly Area[]): MemoryFacts {
  const bytes = { lazy: 0, shared: 0, copied: 0, locked: 0, huge: 0 };
  const shared = new Map<string, number>();
  let swapped = 0;
  for (const { kind, object, inode, bytes: present, swapped: out } of areas) {
    swapped += out;
    if (kind === 'file') continue;
    if (kind === 'shared' && inode !== 0) shared.set(object, Math.max(shared.get(object) ?? 0, present));
    else bytes[kind] += present;
  }
  for (const present of shared.values()) bytes.shared += present;
  return { bytes, swapped };
}
