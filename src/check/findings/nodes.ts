import { type Finding, mebibytes, some } from '../finding.ts';
import type { NodeFacts } from '../proc/node.ts';

/** What this node lacks, whatever the container. */
export function nodeFindings(node: NodeFacts): Finding[] {
  return [...criu(node), ...kernel(node), ...configuration(node)];
}

/** From which kernel on an older CRIU fails, and why (tried on 6.18; CRIU's change log). */
const TOO_OLD = [
  { kernel: '6.16', criu: '4.2', why: 'before 4.2 it cannot dump sockets on such a kernel (SO_PASSCRED fails on TCP)' },
  { kernel: '6.13', criu: '4.1', why: 'before 4.1 it does not know all mappings of such a kernel (vvar_vclock)' },
];

function criu({ node, criu: version, kernel: release }: NodeFacts): Finding[] {
  if (version === '') {
    return [
      {
        id: 'criu-missing',
        severity: 'cold',
        seen: `CRIU does not run on node ${node}`,
        why: 'it is what takes a checkpoint',
        todo: 'install criu',
      },
    ];
  }
  const reason = TOO_OLD.find((rule) => isBefore(version, rule.criu) && !isBefore(release, rule.kernel));
  if (reason === undefined) return [];
  return [
    {
      id: 'criu-too-old',
      severity: 'cold',
      seen: `CRIU ${version} on Linux ${release}, node ${node}`,
      why: reason.why,
      todo: `install CRIU ${reason.criu} or later`,
    },
  ];
}

function kernel({ hasCheckpointRestore, hasUserfaultfd, hasSoftDirty, kernel: release, node }: NodeFacts): Finding[] {
  const about = `Linux ${release}, node ${node}`;
  return [
    ...(hasCheckpointRestore
      ? []
      : [
          {
            id: 'kernel-without-checkpoint',
            severity: 'cold' as const,
            seen: `${about}: no CONFIG_CHECKPOINT_RESTORE`,
            why: 'CRIU needs it',
            todo: 'use a kernel of the distribution',
          },
        ]),
    ...(hasUserfaultfd
      ? []
      : [
          {
            id: 'kernel-without-userfaultfd',
            severity: 'hot' as const,
            seen: `${about}: no userfaultfd`,
            why: 'memory cannot follow after the restore: the interruption grows with it',
            todo: 'use a kernel with CONFIG_USERFAULTFD',
          },
        ]),
    ...(hasSoftDirty
      ? []
      : [
          {
            id: 'kernel-without-soft-dirty',
            severity: 'hot' as const,
            seen: `${about}: does not mark written pages (CONFIG_MEM_SOFT_DIRTY)${isBefore(release, '6.7') ? ', nor has it PAGEMAP_SCAN' : '; it has PAGEMAP_SCAN'}`,
            why: 'CRIU’s copy in rounds (pre-copy) is not possible; hybrid needs no marks',
            todo: 'nothing',
          },
        ]),
  ];
}

/** Changes what a dump does, behind the back of whoever asks for one. */
const CHANGING =
  /^(tcp-close|tcp-established|skip-in-flight|tcp-skip-in-flight|network-lock|ext-unix-sk|ghost-limit|leave-running)\b/;

function configuration({ criuConfiguration, node }: NodeFacts): Finding[] {
  const files = Object.entries(criuConfiguration);
  if (files.length === 0) return [];
  const lines = files.flatMap(([, all]) => all.map((line) => line.trim()));
  return [
    {
      id: 'criu-configuration',
      severity: lines.some((line) => /^tcp-close\b/.test(line)) ? 'warm' : 'hot',
      seen: `node ${node}: ${files.map(([file, all]) => `${file}: ${some(all.map((line) => line.trim()))}`).join('; ')}`,
      why: lines.some((line) => CHANGING.test(line))
        ? 'CRIU reads it whoever starts it, and it changes what happens to connections, sockets or files'
        : 'CRIU reads it whoever starts it',
      todo: 'remove it, or see that it says what you want: it is often left behind by other tools',
    },
  ];
}

/** What the other node lacks. */
export function peerFindings(
  here: NodeFacts,
  there: NodeFacts,
  needs: { images: ReadonlyMap<string, string>; bytes: number; labels: readonly string[] },
): Finding[] {
  const own = [...criu(there), ...kernel(there)].map((finding) => ({ ...finding, id: `peer-${finding.id}` }));
  const found: Finding[] = own.filter(({ severity }) => severity !== 'hot');
  const add = (id: string, seen: string, why: string, todo: string, severity: Finding['severity'] = 'cold') =>
    void found.push({ id, severity, seen, why, todo });
  if (here.architecture !== there.architecture) {
    add(
      'peer-architecture',
      `${here.architecture} here, ${there.architecture} on ${there.node}`,
      'a process consists of instructions of its processor',
      'choose a node of the same architecture',
    );
  } else {
    const missing = missingFeatures(here.cpuFlags, there.cpuFlags);
    if (missing.length > 0) {
      add(
        'peer-cpu',
        `${there.node} lacks ${some(missing, 8)}`,
        'programs and libraries choose their code by what the processor has when they start: they would be killed by SIGILL',
        'choose a node with a processor of that kind or a later one',
      );
    }
  }
  if (there.criu !== '' && here.criu !== '' && isBefore(minor(there.criu), minor(here.criu))) {
    add(
      'peer-criu-older',
      `CRIU ${here.criu} here, ${there.criu} on ${there.node}`,
      'an older CRIU need not understand what a newer one has written',
      `install CRIU ${minor(here.criu)} on ${there.node}`,
    );
  }
  if (isBefore(minor(there.kernel), minor(here.kernel))) {
    add(
      'peer-kernel-older',
      `Linux ${here.kernel} here, ${there.kernel} on ${there.node}`,
      'what the program uses of the newer kernel is missing there',
      'look at the report of a trial run: gantry checkpoint here and gantry restore there',
      'hot',
    );
  }
  const images = there.missingImages.map((id) => needs.images.get(id) ?? id);
  if (images.length > 0) {
    add(
      'peer-image-missing',
      `${there.node} does not have ${some(images)}`,
      'the container is made there from the very same image',
      `pull it on ${there.node} first (crictl pull)`,
    );
  }
  if (there.freeBytes < needs.bytes) {
    add(
      'peer-space',
      `${mebibytes(there.freeBytes)} are free on ${there.node}, and ${mebibytes(needs.bytes)} needed`,
      'the images of memory lie there until the container runs',
      'free memory or disk there, or set imageDir to a larger file system',
    );
  }
  const modules = here.lsm.filter((name) => (name === 'selinux' || name === 'apparmor') && !there.lsm.includes(name));
  if (needs.labels.length > 0 && modules.length > 0) {
    add(
      'peer-security-module',
      `${some(modules)} is not on at ${there.node}`,
      `the processes are confined as ${some(needs.labels)}`,
      'choose a node where it is',
    );
  }
  return found;
}

/** Families of instructions and registers that user space chooses its code by; others of the flags describe the kernel's business. */
const CHOSEN_BY =
  /^(sse|ssse3|avx|amx|fma|f16c|bmi|abm|lzcnt|popcnt|movbe|aes|vaes|pclmul|vpclmul|sha|gfni|rdrand|rdseed|adx|erms|fsrm|xsave|pku|ospke|clwb|clflushopt|rtm|hle|fsgsbase|rdpid|cx16|lahf_lm|movdir|serialize|waitpkg)/;

/** Pure: on other architectures than x86 every flag is one of these. */
export function missingFeatures(here: readonly string[], there: readonly string[]): string[] {
  const isX86 = here.includes('lm') || here.includes('fpu');
  return here.filter((flag) => !there.includes(flag) && (!isX86 || CHOSEN_BY.test(flag)));
}

function minor(version: string): string {
  return (
    version
      .split(/[^0-9.]/)[0]
      ?.split('.')
      .slice(0, 2)
      .join('.') ?? ''
  );
}

/** Pure: compares the numbers that versions such as 4.2.1 or 6.18.44-x begin with. */
export function isBefore(version: string, other: string): boolean {
  const numbers = (text: string) => (/^[\d.]+/.exec(text)?.[0] ?? '').split('.').map(Number);
  const [left, right] = [numbers(version), numbers(other)];
  for (let at = 0; at < right.length; at++) {
    const [a = 0, b = 0] = [left[at], right[at]];
    if (a !== b) return a < b;
  }
  return false;
}
