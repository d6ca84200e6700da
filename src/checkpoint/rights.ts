import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Credentials, credentialsOf, limitsOf } from '../criu/credentials.ts';
import { decodeImage } from '../criu/image.ts';
import { GantryError } from '../errors.ts';
import type { CoreEntry } from '../gen/criu.ts';
import type { RuntimeSpec } from '../runtime/cri.ts';
import { coresIn } from './cores.ts';

/** SECCOMP_FILTER_FLAG_TSYNC of Linux. */
const TSYNC = 1;
/** CRIU's number for a task that has ended and was not waited for. */
const TASK_DEAD = 2;

/**
 * Compares what the threads of a checkpoint are allowed, by its images, with what the container that they are to run in
 * allows: CRIU gives them whatever the images say. Errors: NOT_ALLOWED, with all that is too much; BAD_ARCHIVE.
 *
 * @param images folder of CRIU's images
 * @param spec of the container, as the runtime has made it of the request
 */
export async function checkRights(images: string, spec: RuntimeSpec): Promise<void> {
  const excesses = new Set<string>();
  const synchronized = await synchronizedThreads(images);
  for await (const { id, core } of coresIn(images))
    for (const one of ofCore(core, spec, synchronized.has(id))) excesses.add(one);
  for (const name of (await readdir(images)).filter((one) => /^creds-\d+\.img$/.test(one))) {
    for (const one of ofCredentials(name, await readFile(join(images, name)), spec)) excesses.add(one);
  }
  if (excesses.size === 0) return;
  const most = [...excesses].slice(0, 5).join('; ');
  throw new GantryError('NOT_ALLOWED', `the checkpoint has more rights than its container: ${most}`, {
    hint: 'give the container the security context that the checkpoint was made with, or distrust the checkpoint',
  });
}

/**
 * Threads that get the filter of their process' first one, which is restored for all of them (SECCOMP_FILTER_FLAG_TSYNC): where
 * all have the same CRIU writes it down once. By ID.
 */
async function synchronizedThreads(images: string): Promise<Set<number>> {
  const read = async (name: string) => readFile(join(images, name)).catch(() => undefined);
  const [tree, filters] = await Promise.all([read('pstree.img'), read('seccomp.img')]);
  if (tree === undefined || filters === undefined) return new Set();
  const [{ seccomp_filters } = { seccomp_filters: [] }] = decodeImage('seccomp.img', filters, 'SECCOMP').entries;
  const isForAll = new Set<number>();
  for await (const { id, core } of coresIn(images)) {
    const { seccomp_mode: mode, seccomp_filter: filter } = core.thread_core ?? {};
    const flags = filter === undefined ? 0 : (seccomp_filters[filter]?.flags ?? 0);
    if (mode === 'filter' && (flags & TSYNC) !== 0) isForAll.add(id);
  }
  const processes = decodeImage('pstree.img', tree, 'PSTREE').entries.filter(({ pid }) => isForAll.has(pid));
  return new Set(processes.flatMap(({ threads }) => threads));
}

function ofCore(core: CoreEntry, spec: RuntimeSpec, isSynchronized: boolean): string[] {
  const creds = core.thread_core?.creds;
  const own = core.thread_core?.seccomp_mode ?? core.tc?.old_seccomp_mode ?? 'disabled';
  // What has ended runs no more.
  const hasFilter = own !== 'disabled' || isSynchronized || core.tc?.task_state === TASK_DEAD;
  return [
    ...(creds === undefined ? [] : excessOf(credentialsOf(creds, core), spec)),
    ...(spec.linux?.seccomp !== undefined && !hasFilter ? ['a thread without seccomp'] : []),
    ...limitsOf(core).flatMap(({ resource, hard }) => {
      const allowed = spec.process?.rlimits?.find(({ type }) => type === `RLIMIT_${resource.toUpperCase()}`)?.hard;
      const isMore = allowed !== undefined && (hard === 'unlimited' ? !isUnlimited(allowed) : hard > BigInt(allowed));
      return isMore ? [`a limit of ${hard} for ${resource}, where ${allowed} is allowed`] : [];
    }),
  ];
}

function ofCredentials(name: string, bytes: Buffer, spec: RuntimeSpec): string[] {
  const none = { tc: undefined, thread_core: undefined } as unknown as CoreEntry;
  return decodeImage(name, bytes, 'CREDS').entries.flatMap((creds) => excessOf(credentialsOf(creds, none), spec));
}

function excessOf(credentials: Credentials, { process }: RuntimeSpec): string[] {
  const allowed = new Set((process?.capabilities?.bounding ?? []).map((name) => name.replace(/^CAP_/, '')));
  const held = new Set(Object.values(credentials.capabilities).flat());
  const capabilities = [...held].filter((name) => !allowed.has(name)).map((name) => `CAP_${name}`);
  // Who may become anybody may be anybody.
  const users = allowed.has('SETUID') ? [] : foreign(Object.values(credentials.uids), [process?.user?.uid ?? 0]);
  const gids = [process?.user?.gid ?? 0, ...(process?.user?.additionalGids ?? [])];
  const groups = allowed.has('SETGID')
    ? []
    : foreign([...Object.values(credentials.gids), ...credentials.groups], gids);
  const profile = process?.apparmorProfile || process?.selinuxLabel || '';
  return [
    ...capabilities,
    ...users.map((uid) => `user ${uid}`),
    ...groups.map((gid) => `group ${gid}`),
    ...(process?.noNewPrivileges === true && !credentials.noNewPrivileges ? ['a thread that may gain privileges'] : []),
    ...(profile !== '' && profile !== 'unconfined' && !isConfined(credentials, profile)
      ? [`a thread of profile ${credentials.lsmProfile ?? 'none'}, where ${profile} is asked for`]
      : []),
  ];
}

function foreign(ids: readonly number[], own: readonly number[]): number[] {
  return [...new Set(ids)].filter((id) => !own.includes(id));
}

/** AppArmor adds its mode: "profile (enforce)". */
function isConfined({ lsmProfile = '' }: Credentials, profile: string): boolean {
  return lsmProfile === profile || lsmProfile.startsWith(`${profile} `);
}

function isUnlimited(limit: number): boolean {
  return limit >= Number(0xffff_ffff_ffff_ffffn);
}
