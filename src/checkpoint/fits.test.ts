import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { encodeImage } from '../criu/encode.ts';
import { core } from '../criu/images.fixture.ts';
import type { RuntimeSpec } from '../runtime/cri.ts';
import { checkFits, type Host } from './fits.ts';
import { checkRights } from './rights.ts';

let images: string;

beforeEach(async () => {
  images = await mkdtemp(join(tmpdir(), 'gantry-images-'));
  await put('inventory.img', encodeImage('INVENTORY', [{ img_version: 2, lsmtype: 'NO_LSM' }]));
});
afterEach(() => rm(images, { recursive: true }));

const put = (name: string, bytes: Buffer) => writeFile(join(images, name), bytes);

describe('a checkpoint fits a node', () => {
  const host: Host = { architecture: 'x64', namespaces: ['net', 'time'], flags: new Set(['avx']), lsm: ['capability'] };
  const used = (...bits: number[]) => bits.reduce((sum, bit) => sum | (1n << BigInt(bit)), 3n);
  const withStates = (bits: bigint) => put('core-1.img', core('server', { thread_info: thread(bits) }));
  const thread = (bits: bigint) => ({
    clear_tid_addr: 0n,
    gpregs: {},
    fpregs: { st_space: [], xmm_space: [], xsave: { xstate_bv: bits } },
  });

  test('of the same kind', async () => {
    await withStates(used(2));
    await put('timens-0.img', Buffer.alloc(0));
    await expect(checkFits(images, host)).resolves.toBeUndefined();
  });

  test.each<[string, Partial<Host>, bigint, RegExp]>([
    ['of another architecture', { architecture: 'arm64' }, used(2), /made on X86_64, and this node is AARCH64/],
    ['whose processor lacks what was used', {}, used(2, 5), /have used avx512f/],
    ['without time namespaces', { namespaces: ['net'] }, used(), /time namespace/],
  ])('but not one %s', async (_what, other, states, says) => {
    await withStates(states);
    await put('timens-0.img', Buffer.alloc(0));
    await expect(checkFits(images, { ...host, ...other })).rejects.toMatchObject({
      reason: 'NOT_FITTING',
      message: expect.stringMatching(says),
    });
  });

  test('but not one without the security module that confines it', async () => {
    await withStates(used());
    await put('inventory.img', encodeImage('INVENTORY', [{ img_version: 2, lsmtype: 'APPARMOR' }]));
    await expect(checkFits(images, host)).rejects.toMatchObject({ message: expect.stringMatching(/apparmor/) });
    await expect(checkFits(images, { ...host, lsm: ['apparmor'] })).resolves.toBeUndefined();
  });
});

describe('rights of a checkpoint', () => {
  const creds = {
    ...{ uid: 7, gid: 7, euid: 7, egid: 7, suid: 7, sgid: 7, fsuid: 7, fsgid: 7, groups: [7] },
    ...{ cap_inh: [0, 0], cap_prm: [1, 0], cap_eff: [1, 0], cap_bnd: [1, 0], cap_amb: [0, 0], secbits: 0 },
    no_new_privs: 1,
  };
  const withThread = (fields: object, more: object = {}) =>
    put('core-5.img', core('server', { thread_core: threadCore({ creds: { ...creds, ...fields }, ...more }) }));
  const threadCore = (fields: object) => ({
    futex_rla: 0n,
    futex_rla_len: 0,
    sched_nice: 0,
    sched_policy: 0,
    ...fields,
  });
  const spec: RuntimeSpec = {
    process: {
      user: { uid: 7, gid: 7 },
      capabilities: { bounding: ['CAP_CHOWN'] },
      noNewPrivileges: true,
      rlimits: [{ type: 'RLIMIT_FSIZE', hard: 6 }],
    },
  };

  test('are no more than what the container has', async () => {
    await withThread({});
    await expect(checkRights(images, spec)).resolves.toBeUndefined();
  });

  test.each<[string, object, object, RuntimeSpec, RegExp]>([
    ['a capability', { cap_eff: [1 << 21, 0] }, {}, spec, /CAP_SYS_ADMIN/],
    ['a capability that it may get', { cap_bnd: [1, 1 << 6] }, {}, spec, /CAP_PERFMON/],
    ['another user', { suid: 0 }, {}, spec, /user 0/],
    ['another group', { groups: [7, 0] }, {}, spec, /group 0/],
    ['privileges that it may gain', { no_new_privs: 0 }, {}, spec, /may gain privileges/],
    ['no seccomp', {}, {}, { ...spec, linux: { seccomp: {} } }, /without seccomp/],
    [
      'another profile',
      { lsm_profile: 'unconfined' },
      {},
      { process: { ...spec.process, apparmorProfile: 'cri-default' } },
      /unconfined, where cri-default/,
    ],
  ])('with %s are refused, also of one thread among many', async (_what, fields, more, live, says) => {
    await put('core-1.img', core('server', { thread_core: threadCore({ creds, seccomp_mode: 'filter' }) }));
    await withThread(fields, more);
    await expect(checkRights(images, live)).rejects.toMatchObject({
      reason: 'NOT_ALLOWED',
      message: expect.stringMatching(says),
    });
  });

  test('with a higher limit are refused', async () => {
    const rlimits = {
      rlimits: [
        { cur: 1n, max: 1n },
        { cur: 5n, max: 7n },
      ],
    };
    await put('core-1.img', core('server', { thread_core: threadCore({}) }, { rlimits }));
    const root = {
      ...spec.process,
      user: { uid: 0, gid: 0 },
      capabilities: { bounding: ['CAP_SETUID', 'CAP_SETGID'] },
    };
    await expect(checkRights(images, { process: { ...root, noNewPrivileges: false } })).rejects.toMatchObject({
      message: expect.stringMatching(/limit of 7 for fsize, where 6/),
    });
  });
});
