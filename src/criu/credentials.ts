import type { CoreEntry, CredsEntry } from '../gen/criu.ts';
import { capabilityNames } from './capabilities.ts';

export interface Ids {
  readonly real: number;
  readonly effective: number;
  readonly saved: number;
  readonly filesystem: number;
}

export interface Credentials {
  readonly uids: Ids;
  readonly gids: Ids;
  readonly groups: readonly number[];
  /** Names without "CAP_", in the order of their numbers. */
  readonly capabilities: {
    readonly inheritable: readonly string[];
    readonly permitted: readonly string[];
    readonly effective: readonly string[];
    readonly bounding: readonly string[];
    readonly ambient: readonly string[];
  };
  /** SECBIT_* of prctl(2). */
  readonly secureBits: number;
  readonly noNewPrivileges: boolean;
  readonly seccomp: 'disabled' | 'strict' | 'filter';
  /** SELinux's label or AppArmor's profile; which of them the checkpoint's `lsm` tells. */
  readonly lsmProfile?: string;
}

/** One resource limit of getrlimit(2), in its own unit. */
export interface ResourceLimit {
  readonly resource: string;
  readonly soft: bigint | 'unlimited';
  readonly hard: bigint | 'unlimited';
}

/** In the order of Linux's asm-generic/resource.h. */
const RESOURCES = [
  ...['cpu', 'fsize', 'data', 'stack', 'core', 'rss', 'nproc', 'nofile', 'memlock', 'as', 'locks', 'sigpending'],
  ...['msgqueue', 'nice', 'rtprio', 'rttime'],
];
const INFINITY = 0xffff_ffff_ffff_ffffn;

/** @param creds of the thread's own image, or of creds-PID.img */
export function credentialsOf(creds: CredsEntry, core: CoreEntry): Credentials {
  const { uid, euid, suid, fsuid, gid, egid, sgid, fsgid, groups, lsm_profile } = creds;
  return {
    uids: { real: uid, effective: euid, saved: suid, filesystem: fsuid },
    gids: { real: gid, effective: egid, saved: sgid, filesystem: fsgid },
    groups,
    capabilities: {
      inheritable: capabilityNames(creds.cap_inh),
      permitted: capabilityNames(creds.cap_prm),
      effective: capabilityNames(creds.cap_eff),
      bounding: capabilityNames(creds.cap_bnd),
      ambient: capabilityNames(creds.cap_amb),
    },
    secureBits: creds.secbits,
    noNewPrivileges: creds.no_new_privs === 1,
    seccomp: core.thread_core?.seccomp_mode ?? core.tc?.old_seccomp_mode ?? 'disabled',
    ...(lsm_profile === undefined ? {} : { lsmProfile: lsm_profile }),
  };
}

export function limitsOf({ tc }: CoreEntry): ResourceLimit[] {
  const limits = tc?.rlimits?.rlimits ?? [];
  return limits.map(({ cur, max }, index) => ({
    resource: RESOURCES[index] ?? String(index),
    soft: cur === INFINITY ? 'unlimited' : cur,
    hard: max === INFINITY ? 'unlimited' : max,
  }));
}
