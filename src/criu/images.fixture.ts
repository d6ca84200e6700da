import type { Messages } from '../gen/criu.ts';
import { encodeImage, type Known } from './encode.ts';
import type { EntryOf } from './kinds.ts';
import type { ImageSource } from './source.ts';

/*
 * Images made by hand, for tests: the same messages, put together independently of the reader.
 */

/** Files of a checkpoint in memory. */
export function memorySource(files: Readonly<Record<string, Buffer>>): ImageSource {
  return {
    names: async () => Object.keys(files),
    read: async (name, from = 0, length = Number.MAX_SAFE_INTEGER) =>
      (files[name] ?? Buffer.alloc(0)).subarray(from, from + length),
  };
}

export const PAGE = 4096;

export const FOWN = { uid: 0, euid: 0, signum: 0, pid_type: 0, pid: 0 };
export const SOCKET_OPTIONS = {
  so_sndbuf: 1,
  so_rcvbuf: 1,
  so_snd_tmo_sec: 0n,
  so_snd_tmo_usec: 0n,
  so_rcv_tmo_sec: 0n,
  so_rcv_tmo_usec: 0n,
};
export const IDS = { vm_id: 1, files_id: 1, fs_id: 1, sighand_id: 1, net_ns_id: 9, uts_ns_id: 10, mnt_ns_id: 11 };
export const CREDS = {
  ...{ uid: 999, gid: 998, euid: 999, egid: 998, suid: 999, sgid: 998, fsuid: 999, fsgid: 998, secbits: 0 },
  cap_inh: [0, 0],
  cap_prm: [0x400, 0],
  cap_eff: [1, 1 << 8],
  cap_bnd: [0xffffffff, 0xffffffff],
  cap_amb: [0, 0],
  groups: [7, 8],
  no_new_privs: 1,
  lsm_profile: 'cri-containerd.apparmor.d',
};

/** The core image of a process. */
export function core(comm: string, more: Known<EntryOf<'CORE'>> = {}, task: Known<Messages['task_core_entry']> = {}) {
  const tc = { task_state: 1, exit_code: 0, personality: 0, flags: 0, blk_sigset: 0n, comm, ...task };
  const thread_core = { futex_rla: 0n, futex_rla_len: 0, creds: CREDS, seccomp_mode: 'filter', cg_set: 1, comm };
  return encodeImage('CORE', [{ mtype: 'X86_64', tc, ids: IDS, thread_core, ...more }]);
}

export function thread(comm: string): Buffer {
  return encodeImage('CORE', [{ mtype: 'X86_64', thread_core: { futex_rla: 0n, futex_rla_len: 0, comm } }]);
}

export interface Area {
  start: bigint;
  end: bigint;
  status: number;
  shmid?: bigint;
  prot?: number;
  flags?: number;
}

/** The mappings of a process whose arguments lie at 0x7000 and whose environment lies at 0x7800. */
export function mm(areas: readonly Area[], more: Known<EntryOf<'MM'>> = {}): Buffer {
  const vmas = areas.map((area) => ({ pgoff: 0n, shmid: 0n, prot: 3, flags: 0x22, fd: -1n, ...area }));
  const none = { mm_start_code: 0n, mm_end_code: 0n, mm_start_data: 0n, mm_end_data: 0n, mm_start_brk: 0n, mm_brk: 0n };
  const text = { mm_arg_start: 0x7000n, mm_arg_end: 0x7000n, mm_env_start: 0x7800n, mm_env_end: 0x7800n };
  return encodeImage('MM', [{ ...none, mm_start_stack: 0x7f00n, ...text, exe_file_id: 1, vmas, ...more }]);
}
