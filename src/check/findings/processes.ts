import type { ContainerFacts } from '../facts.ts';
import { type Finding, some } from '../finding.ts';
import type { ProcessFacts } from '../proc/processes.ts';

type Facts = Pick<
  ContainerFacts,
  | 'init'
  | 'pausePid'
  | 'processes'
  | 'capabilities'
  | 'nodeNamespaces'
  | 'later'
  | 'hasTerminal'
  | 'descriptors'
  | 'mounts'
>;

/** What a container's processes are, and to whom they belong. */
export function processFindings(facts: Facts): Finding[] {
  return [
    ...strangers(facts),
    ...stuck(facts),
    ...ofOthers(facts),
    ...traced(facts),
    ...terminal(facts),
    ...remarks(facts),
    ...confined(facts),
  ];
}

/** Only what descends from the container's first process is dumped. */
function strangers({ init, pausePid, processes }: Facts): Finding[] {
  const own = new Set(processes.map(({ pid }) => pid));
  // Orphans are given to the first process of the PID namespace: with a shared one, that is the sandbox's.
  const entered = processes.filter(({ pid, parent }) => pid !== init && !own.has(parent) && parent !== pausePid);
  if (entered.length === 0) return [];
  return [
    {
      id: 'exec-session',
      severity: 'warm',
      seen: `${entered.length} process(es) entered from outside: ${who(entered)}`,
      why: 'a process that kubectl exec or a probe has started does not descend from the container’s first process: it is not in the checkpoint, and its session ends',
      todo: 'close the sessions, or accept that they end; a probe is over by itself',
    },
  ];
}

function stuck({ processes, later }: Facts): Finding[] {
  const still = new Set(later.uninterruptible);
  const tasks = processes.filter(({ uninterruptible }) => uninterruptible.some((id) => still.has(id)));
  if (tasks.length === 0) return [];
  return [
    {
      id: 'uninterruptible-task',
      severity: 'cold',
      seen: `in uninterruptible sleep (state D) at the beginning and at the end of the window: ${who(tasks)}`,
      why: 'such a task can neither be frozen nor be stopped: the freeze fails after its time limit',
      todo: 'look at /proc/PID/wchan and /proc/PID/stack: a disk, a network file system or a vfork keeps it; check again when it is over',
    },
  ];
}

/** Bit of CAP_SYS_RESOURCE. */
const SYS_RESOURCE = 24n;

/**
 * The kernel tells limits to who is root, has all the same numbers, or has the capability (prlimit(2)), as the agent has it in
 * any user namespace below its own.
 */
function ofOthers({ processes, capabilities, nodeNamespaces }: Facts): Finding[] {
  const others = processes.filter(
    ({ ids, namespaces }) => ids.some((id) => id !== 0) && namespaces.user === nodeNamespaces.user,
  );
  if (others.length === 0 || ((capabilities >> SYS_RESOURCE) & 1n) === 1n) return [];
  return [
    {
      id: 'limits-of-others',
      severity: 'cold',
      seen: `the agent has no CAP_SYS_RESOURCE, and processes are not root’s: ${who(others)}`,
      why: 'without it the kernel does not tell CRIU the limits of another user’s processes',
      todo: 'give the agent that capability; what the node runs in, a container or a small virtual machine, may lack it',
    },
  ];
}

function traced({ processes }: Facts): Finding[] {
  const tasks = processes.filter(({ tracer }) => tracer !== 0);
  if (tasks.length === 0) return [];
  return [
    {
      id: 'traced-task',
      severity: 'cold',
      seen: `traced: ${tasks.map(({ command, pid, tracer }) => `${command} (PID ${pid}) by PID ${tracer}`).join(', ')}`,
      why: 'a task has one tracer at a time and CRIU has to be it: the dump fails, or waits for ever',
      todo: 'end the debugger, strace or profiler',
    },
  ];
}

function terminal({ hasTerminal, descriptors, mounts }: Facts): Finding[] {
  const why = 'the other end of the terminal belongs to the shim that started the container, and stays there';
  if (hasTerminal) {
    return [
      {
        id: 'terminal',
        severity: 'cold',
        seen: 'the container was created with tty: true',
        why,
        todo: 'run it without a terminal (tty: false)',
      },
    ];
  }
  const own = new Set(mounts.filter(({ fileSystem }) => fileSystem === 'devpts').map(({ device }) => device));
  const foreign = descriptors.filter(({ file }) => isTerminal(file?.device ?? '') && !own.has(file?.on ?? ''));
  if (foreign.length === 0) return [];
  const seen = `open: ${some(foreign.map(({ pid, fd, link }) => `${link} (PID ${pid}, fd ${fd})`))}`;
  return [{ id: 'terminal', severity: 'cold', seen, why, todo: 'close it: use a log or a socket instead' }];
}

/** Pure: majors of pseudo terminals (admin-guide/devices.txt of Linux). */
function isTerminal(device: string): boolean {
  const major = Number(device.split(':')[0]);
  return major >= 136 && major <= 143;
}

function remarks({ processes }: Facts): Finding[] {
  const zombies = processes.filter(({ state }) => state === 'Z');
  const stopped = processes.filter(({ state }) => state === 'T');
  return [
    ...(zombies.length === 0
      ? []
      : [
          {
            id: 'zombie-task',
            severity: 'hot' as const,
            seen: `ended and not waited for: ${who(zombies)}`,
            why: 'they are dumped and come back as they are; many of them are a fault of their parent',
            todo: 'nothing; an init such as catatonit or tini would wait for them',
          },
        ]),
    ...(stopped.length === 0
      ? []
      : [
          {
            id: 'stopped-task',
            severity: 'cold' as const,
            seen: `stopped by a signal: ${who(stopped)}`,
            why: 'CRIU waits for ever for a task that is stopped inside a frozen cgroup',
            todo: 'let it go on (kill -CONT PID), or end it',
          },
        ]),
  ];
}

function confined({ processes }: Facts): Finding[] {
  const labels = [...new Set(processes.map(({ label }) => label))].filter(
    (label) => label !== '' && !/^(unconfined|kernel)/.test(label),
  );
  if (labels.length === 0) return [];
  return [
    {
      id: 'security-label',
      severity: 'hot',
      seen: `confined as ${some(labels)}`,
      why: 'the same profile must be loaded where it is restored',
      todo: 'check with --to: whether that node has the security module is compared',
    },
  ];
}

function who(tasks: readonly ProcessFacts[]): string {
  return some(tasks.map(({ command, pid }) => `${command} (PID ${pid})`));
}
