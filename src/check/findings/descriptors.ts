import type { ContainerFacts } from '../facts.ts';
import { type Finding, mebibytes, some, type Verdict } from '../finding.ts';
import type { Descriptor } from '../proc/descriptors.ts';

type Facts = Pick<ContainerFacts, 'descriptors' | 'areas' | 'devices'>;

/** CRIU's own default (criu(8), --ghost-limit). */
const GHOST_LIMIT = 1024 * 1024;

/** What the kernel calls an anonymous inode's kind, and what CRIU's files.c does with it; the rest it cannot dump. */
const DUMPED = /^\[?(eventfd|eventpoll|timerfd|signalfd|pidfd|inotify|fanotify|bpf-map)\]?$/;

interface Kind {
  readonly id: string;
  readonly what: RegExp;
  readonly severity: Verdict;
  readonly why: string;
  readonly todo: string;
}

const KINDS: readonly Kind[] = [
  {
    id: 'io-uring',
    what: /^\[?io_uring\]?$/,
    severity: 'cold',
    why: 'its rings are memory that is shared with the kernel and requests that are under way in it: CRIU cannot dump them',
    todo: 'turn io_uring off in the application (Node: UV_USE_IO_URING=0; others have a setting), or forbid it with seccomp',
  },
  {
    id: 'userfaultfd',
    what: /^\[?userfaultfd\]?$/,
    severity: 'cold',
    why: 'the program fills its own memory on demand: CRIU cannot dump that, and needs the same means for itself',
    todo: 'turn off what uses it: some garbage collectors, snapshots of virtual machines',
  },
  {
    id: 'seccomp-notify',
    what: /^\[?seccomp notify\]?$/,
    severity: 'cold',
    why: 'whoever listens answers system calls that are under way: CRIU cannot dump that',
    todo: 'let the supervisor run elsewhere, or without notifications',
  },
  {
    id: 'perf-event',
    what: /^\[?perf_event\]?$/,
    severity: 'cold',
    why: 'counters of this kernel and processor cannot be taken along',
    todo: 'stop the profiler',
  },
  {
    id: 'bpf',
    what: /^\[?bpf[-_](?!map)/,
    severity: 'cold',
    why: 'a program that is loaded into this kernel does not move with the process',
    todo: 'load it from outside, for example by a DaemonSet',
  },
];

/** What a container has open, other than sockets. */
export function descriptorFindings(facts: Facts): Finding[] {
  return [...anonymous(facts), ...watches(facts), ...devices(facts), ...deleted(facts)];
}

function anonymous({ descriptors }: Facts): Finding[] {
  const open = descriptors.flatMap((one) => {
    const [, kind] = /^anon_inode:(.+)$/.exec(one.link) ?? [];
    return kind === undefined || DUMPED.test(kind) ? [] : [{ ...one, kind }];
  });
  const known = KINDS.flatMap(({ what, ...rest }) => {
    const found = open.filter(({ kind }) => what.test(kind));
    return found.length === 0 ? [] : [{ ...rest, seen: places(found) }];
  });
  const others = open.filter(({ kind }) => !KINDS.some(({ what }) => what.test(kind)));
  const secret = descriptors.filter(({ link }) => link.startsWith('/secretmem'));
  if (others.length === 0 && secret.length === 0) return known;
  return [
    ...known,
    {
      id: 'unknown-descriptor',
      severity: 'cold',
      seen: places([...others, ...secret]),
      why: 'CRIU dumps eventfd, epoll, timerfd, signalfd, pidfd, inotify, fanotify and maps of BPF; the dump fails at anything else',
      todo: 'find out what opens it, and whether it can be turned off',
    },
  ];
}

function watches({ descriptors }: Facts): Finding[] {
  return (['inotify', 'fanotify'] as const).flatMap((kind) => {
    const found = descriptors.filter(({ link }) => new RegExp(`^anon_inode:.?${kind}`).test(link));
    if (found.length === 0) return [];
    const count = found.reduce((sum, one) => sum + (one.watches ?? 0), 0);
    return [
      {
        id: kind,
        severity: 'warm' as const,
        seen: `${places(found)}, ${count} watch(es)`,
        why: 'the watches are made again by the paths that they had; events that are not read yet are lost, and a path that is gone makes the dump or the restore fail',
        todo: 'let the application read its files again after the move; --force-irmap of gantry checkpoint searches for paths',
      },
    ];
  });
}

/** Of the first eleven "mem" devices: no state, and on every node. */
function isHarmless(device: string): boolean {
  const [major = 0, minor = 0] = device.split(':').map(Number);
  if (major === 1) return [3, 5, 7, 8, 9].includes(minor);
  // Terminals have a finding of their own.
  return major === 5 || (major >= 136 && major <= 143);
}

function devices({ descriptors, areas, devices: configured }: Facts): Finding[] {
  const open = descriptors.filter(({ file }) => file?.kind === 'device' && !isHarmless(file.device));
  const mapped = areas.filter(({ isDevice }) => isDevice);
  const todo = 'run it without the device, or let its pod start anew elsewhere by Kubernetes, where such a device is';
  const why =
    'what a device holds for a process (queues, contexts, memory) is in the device and its driver, and stays there';
  return [
    ...(open.length === 0
      ? []
      : [
          {
            id: 'device-open',
            severity: 'no' as const,
            seen: `${places(open)}: ${some(open.map(({ file }) => file?.device ?? ''))}`,
            why,
            todo,
          },
        ]),
    ...(mapped.length === 0
      ? []
      : [
          {
            id: 'device-mapped',
            severity: 'no' as const,
            seen: some(mapped.map(({ pid, name }) => `${name} (PID ${pid})`)),
            why,
            todo,
          },
        ]),
    ...(configured.length === 0
      ? []
      : [
          {
            id: 'device-configured',
            severity: 'no' as const,
            seen: `devices of the container: ${some(configured)}`,
            why,
            todo,
          },
        ]),
  ];
}

function deleted({ descriptors }: Facts): Finding[] {
  const gone = descriptors.filter(
    ({ link, file }) => link.endsWith(' (deleted)') && file?.kind === 'file' && !isMemory(link),
  );
  const large = gone.filter(({ file }) => file?.links === 0 && file.bytes > GHOST_LIMIT);
  const named = gone.filter(({ file }) => (file?.links ?? 0) > 0);
  return [
    ...(large.length === 0
      ? []
      : [
          {
            id: 'deleted-file',
            severity: 'cold' as const,
            seen: some(
              large.map(
                (one) =>
                  `${one.link.replace(/ \(deleted\)$/, '')} (PID ${one.pid}, fd ${one.fd}), ${mebibytes(one.file?.bytes ?? 0)}`,
              ),
            ),
            why: 'a file that is open and deleted goes into the checkpoint, but not one of more than 1 MiB (CRIU’s ghost limit)',
            todo: 'let the application close it (a log that was rotated: tell it to reopen), or gantry checkpoint --ghost-limit',
          },
        ]),
    ...(named.length === 0
      ? []
      : [
          {
            id: 'deleted-name',
            severity: 'cold' as const,
            seen: `open by a name that is gone, with another one left: ${places(named)}`,
            why: 'CRIU would have to give it a name of its own to open it by again',
            todo: 'let the application close it; gantry checkpoint --link-remap allows such names',
          },
        ]),
  ];
}

function isMemory(link: string): boolean {
  return /^\/(memfd:|dev\/zero |SYSV|secretmem|anon_hugepage)/.test(link);
}

function places(found: readonly Pick<Descriptor, 'pid' | 'fd' | 'link'>[]): string {
  return some(found.map(({ pid, fd, link }) => `${link} (PID ${pid}, fd ${fd})`));
}
