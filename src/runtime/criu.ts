import { mkdir, readFile } from 'node:fs/promises';
import { release } from 'node:os';
import { join } from 'node:path';
import type { TcpMode } from '../archive/layout.ts';
import { writeDurably } from '../durable.ts';
import { errnoOf, GantryError, messageOf } from '../errors.ts';
import { crunBundle, type OciRuntime, RUNC_ROOT, runtimeOf } from './containerd.ts';
import { run } from './program.ts';

const DUMP_LIMIT_MS = 600_000;

/** CRIU's version. Errors: CRIU_MISSING. */
export async function criuVersion(): Promise<string> {
  try {
    const text = await run('criu', ['--version']);
    return /Version: (\S+)/.exec(text)?.[1] ?? text;
  } catch (error) {
    throw new GantryError('CRIU_MISSING', 'CRIU does not run on this node', { cause: error, hint: 'install criu' });
  }
}

/** How CRIU is to treat what is not the processes' own. */
export interface CriuOptions {
  readonly tcp: TcpMode;
  /** Lines of CRIU's configuration (criu(8), "Configuration files"), further to Gantry's own. */
  readonly lines?: readonly string[];
  /** The kernel is to mark what is written from now on: another dump may be made of those pages alone. */
  readonly tracksMemory?: boolean;
  /** Relative path from the folder of the images to those of the dump before: pages that were not written since stay there. */
  readonly parent?: string;
  /** After so long a dump has failed. */
  readonly timeoutMs?: number;
}

/** What Gantry itself decides: a container would not stay frozen, or be lost, or another one be dumped. */
const OURS = new Set([
  ...[
    'action-script',
    'images-dir',
    'work-dir',
    'log-file',
    'log-pid',
    'pidfile',
    'tree',
    'root',
    'config',
    'no-default-config',
  ],
  ...['leave-running', 'leave-stopped', 'network-lock', 'page-server', 'lazy-pages', 'address', 'port', 'stream'],
  ...['freeze-cgroup', 'manage-cgroups', 'shell-job', 'exec-cmd', 'daemon', 'tcp-established', 'tcp-close'],
  ...['track-mem', 'prev-images-dir', 'auto-dedup'],
]);

/** What the runtimes tell CRIU themselves, over what its configuration says: here they have to be told. */
const RUNTIMES_OWN = {
  runc: new Set(['ext-unix-sk', 'link-remap', 'tcp-skip-in-flight']),
  crun: new Set(['ext-unix-sk']),
};

/** Of what the runtimes call otherwise: CRIU ends at once over a line that it does not know. */
const CRIUS_NAMES: Readonly<Record<string, string>> = { 'tcp-skip-in-flight': 'skip-in-flight' };

/** Errors: USAGE, for lines that are none or that are not for users to give. */
export function checkLines(lines: readonly string[]): void {
  for (const line of lines) {
    const [name = ''] = line.trim().split(/[\s=]/);
    if (!/^[a-z][a-z0-9-]*$/.test(name) || /[\n\0]/.test(line)) {
      throw new GantryError('USAGE', `"${line}" is no option of CRIU`, { hint: 'as in criu(8), without the dashes' });
    }
    if (OURS.has(name)) throw new GantryError('USAGE', `CRIU's option ${name} is Gantry's own to set`);
  }
}

/**
 * Dumps a frozen, shut container into `images` and leaves it frozen: the processes stay as they were, so the dump can be
 * thrown away at any time. CRIU's reason is in the error.
 *
 * Takes no signal on purpose: a CRIU that is killed lets the tasks run with its code inside them.
 * Errors: CHECKPOINT_FAILED, NO_SPACE.
 */
export async function dump(container: string, images: string, work: string, options: CriuOptions): Promise<void> {
  const runtime = await runtimeOf(container);
  const configuration = join(work, 'criu.conf');
  const { args, lines } = dumpOptions(images, work, options);
  await writeDurably(configuration, `${lines.join('\n')}\n`);
  if (await onCgroupV1()) args.push('--manage-cgroups-mode', 'ignore');
  args.push(...(await flagsOf(runtime, options.lines ?? [])));
  try {
    await run(runtime, ['--root', RUNC_ROOT, ...args, container], {
      reason: 'CHECKPOINT_FAILED',
      env: { CRIU_CONFIG_FILE: configuration },
      ...(runtime === 'crun' && { cwd: await crunBundle(container) }),
      timeoutMs: options.timeoutMs ?? DUMP_LIMIT_MS,
    });
  } catch (error) {
    const reason = await criuReason(join(work, 'dump.log'));
    const full = reason.includes('No space left') || errnoOf(error) === 'ENOSPC';
    throw new GantryError(
      full ? 'NO_SPACE' : 'CHECKPOINT_FAILED',
      `CRIU could not dump ${container}: ${reason || error}`,
      {
        cause: error,
        hint: hintFor(reason),
      },
    );
  }
}

/** Pure: options of `runc checkpoint`, and lines of CRIU's configuration. */
export function dumpOptions(
  images: string,
  work: string,
  { tcp, lines = [], tracksMemory = false, parent }: CriuOptions,
): { args: string[]; lines: string[] } {
  const args = ['checkpoint', '--image-path', images, '--work-path', work, '--leave-running', '--file-locks'];
  if (tcp === 'established') args.push('--tcp-established');
  if (parent !== undefined) args.push('--parent-path', parent);
  return {
    args,
    lines: [
      // The pod's network is shut already, and CRIU's own lock would leave its rules behind after a failure.
      'network-lock skip',
      ...(tcp === 'close' ? ['tcp-close'] : []),
      // runc has no option for the first of a chain.
      ...(tracksMemory ? ['track-mem'] : []),
      ...lines.map((line) => CRIUS_NAMES[line.trim()] ?? line),
    ],
  };
}

/** Errors: UNSUPPORTED, where a dump could not tell which pages were written since another one. */
export async function checkTracking(container: string, runtime: OciRuntime): Promise<void> {
  if (runtime !== 'runc') {
    throw new GantryError('UNSUPPORTED', `${container} runs with crun, which cannot be told of an earlier dump`, {
      hint: 'make a checkpoint that stands alone: without --parent and --track-memory',
    });
  }
  try {
    await run('criu', ['check', '--feature', 'mem_dirty_track']);
  } catch (error) {
    throw new GantryError(
      'UNSUPPORTED',
      `the kernel (Linux ${release()}) does not mark written pages (criu check --feature mem_dirty_track: ${messageOf(error)})`,
      {
        cause: error,
        hint: 'use a kernel with CONFIG_MEM_SOFT_DIRTY, or make a checkpoint that stands alone: without --parent and --track-memory',
      },
    );
  }
}

/** Of what is the runtime's own to say. One that does not know an option (older ones of runc) leaves it to the configuration. */
async function flagsOf(runtime: OciRuntime, lines: readonly string[]): Promise<string[]> {
  const flags = lines.flatMap((line) => (RUNTIMES_OWN[runtime].has(line.trim()) ? [`--${line.trim()}`] : []));
  if (flags.length === 0) return [];
  const help = await run(runtime, ['checkpoint', '--help']);
  return flags.filter((flag) => help.includes(`${flag} `));
}

/** How a runtime's `restore` is to be called. */
export interface RestoreOptions {
  readonly args: readonly string[];
  /** Of CRIU's configuration. */
  readonly lines: readonly string[];
  /** The groups (as in the OCI specification) in which the runtime has to be for that. */
  readonly cgroup?: string;
}

/** What fits a {@link dump}; `cgroupsPath` is the container's. */
export async function restoreOptions(
  runtime: OciRuntime,
  cgroupsPath: string,
  { tcp, lines = [] }: CriuOptions,
): Promise<RestoreOptions> {
  const args = ['--file-locks'];
  if (tcp === 'established') args.push('--tcp-established');
  // crun tells CRIU that it is off, over what the configuration says.
  if (tcp === 'close' && runtime === 'crun') args.push('--tcp-close');
  if (lines.includes('ext-unix-sk')) args.push('--ext-unix-sk');
  const isV1 = await onCgroupV1();
  if (isV1 && runtime === 'crun' && !cgroupsPath.startsWith('/')) {
    throw new GantryError('UNSUPPORTED', `crun cannot restore into a group of systemd (${cgroupsPath}) on cgroup v1`, {
      hint: 'set SystemdCgroup = false for crun in containerd, use runc, or run the node with cgroup v2',
    });
  }
  // On v1 the image holds the freezer's state, which would be written back; on v2 `ignore` loses the private namespace.
  if (isV1 && runtime === 'runc') args.push('--manage-cgroups-mode', 'ignore');
  return {
    args,
    lines: [...(tcp === 'close' ? ['tcp-close'] : []), ...lines, await emptyFolderOfCrun()],
    // runc puts CRIU into those of the container itself. crun does not, and has CRIU use what the images say of groups.
    ...(isV1 && runtime === 'crun' && { cgroup: cgroupsPath }),
  };
}

/**
 * crun binds one empty folder over every folder that is to be hidden (`/proc/acpi`), and names it in a dump by where it would be
 * without `--root` (libcrun/criu.c, register_masked_paths_mounts): a restore has to be told what that is here.
 */
async function emptyFolderOfCrun(): Promise<string> {
  const folder = join(RUNC_ROOT, '.empty-directory');
  await mkdir(folder, { recursive: true, mode: 0o555 });
  return `external mnt[/run/crun/.empty-directory]:${folder}`;
}

/** The first errors of a CRIU log, in one line; "" when there is no log. */
export async function criuReason(log: string): Promise<string> {
  const text = await readFile(log, 'utf8').catch(() => '');
  return parseCriuErrors(text).slice(0, 3).join('; ');
}

/**
 * Pure part of {@link criuReason}: lines look like `(00.012345) 17: Error (criu/x.c:12): what happened`. Without the one
 * about the limit of open files, after which CRIU goes on.
 */
export function parseCriuErrors(log: string): string[] {
  const errors = [...log.matchAll(/^\([\d.]+\)(?:\s+\d+:)?\s+Error \([^)]*\): (.*)$/gm)];
  return errors.map(([, text]) => (text ?? '').trim()).filter((text) => !text.includes('RLIMIT_NOFILE'));
}

/** By what CRIU says of it; options are those of `gantry checkpoint`. */
const HINTS: readonly (readonly [RegExp, string])[] = [
  [/Connected TCP socket/, 'it has open TCP connections: use --tcp established, or --tcp close'],
  [/In-flight connection/, 'connections wait to be accepted: use --tcp-skip-in-flight, which leaves them out'],
  [
    /half of stream unix|[Uu]nix socket \d+ without peer/,
    'a unix socket leads out of the pod, or a stream out of the container: CRIU cannot save that, let the application close it',
  ],
  [/ghost file/, 'a large file is open and deleted: use --ghost-limit SIZE, which puts it into the checkpoint'],
  [/link.remap/i, 'a file is open by a name that it has lost: use --link-remap, which gives it one for the checkpoint'],
  [/ext-unix-sk|[Ee]xternal socket/, 'a unix socket leads out of the container: use --ext-unix-sk'],
  [
    /fsnotify|irmap|inotify/,
    'the path of a file that is watched cannot be told: use --force-irmap, which searches for it',
  ],
  [/Can't get rlimit/, 'CRIU needs CAP_SYS_RESOURCE for processes of users other than root'],
  [/io_uring/, 'CRIU cannot dump io_uring; turn it off in the application'],
];

/** What to do about an error of CRIU's. */
export function hintFor(reason: string): string {
  return HINTS.find(([says]) => says.test(reason))?.[1] ?? "CRIU's whole log is in the agent's log folder";
}

/** Errors: CRIU_MISSING; UNSUPPORTED, for a runtime that cannot dump and restore as it is on this node. */
export async function checkRuntime(runtime: OciRuntime): Promise<void> {
  await criuVersion();
  await (runtime === 'crun' ? checkCrun() : checkRunc());
}

/** The node's own crun may lack what the distribution packages apart from it. */
async function checkCrun(): Promise<void> {
  const { version, hasCriu } = parseCrunVersion(await run('crun', ['--version']));
  if (hasCriu) return;
  throw new GantryError('UNSUPPORTED', `crun ${version} cannot checkpoint on this node: it finds no libcriu`, {
    hint: 'install libcriu2; crun --version has to say +CRIU then, and one that does not is built without it',
  });
}

/** Pure: of what `crun --version` prints. The last line has a word for each feature, "+CRIU" where libcriu was found. */
export function parseCrunVersion(text: string): { version: string; hasCriu: boolean } {
  return { version: /^crun version (\S+)/m.exec(text)?.[1] ?? 'of this node', hasCriu: /^\+.*\+CRIU\b/m.test(text) };
}

/** Errors: UNSUPPORTED, for a runc that cannot be told to leave cgroups alone, where that is needed. */
async function checkRunc(): Promise<void> {
  if (!(await onCgroupV1())) return;
  const version = parseRuncVersion(await run('runc', ['--version']));
  if (version === undefined || version.major > 1 || version.minor >= 2) return;
  throw new GantryError('UNSUPPORTED', `runc ${version.text} would save and restore the frozen state of its cgroup`, {
    hint: 'install runc 1.2 or later (--manage-cgroups-mode ignore), or run the node with cgroup v2',
  });
}

/** Pure: of what `runc --version` prints first. */
export function parseRuncVersion(text: string): { text: string; major: number; minor: number } | undefined {
  const [, found, major, minor] = /^runc version ((\d+)\.(\d+)\S*)/m.exec(text) ?? [];
  return found === undefined ? undefined : { text: found, major: Number(major), minor: Number(minor) };
}

let cgroupV1: boolean | undefined;

async function onCgroupV1(): Promise<boolean> {
  cgroupV1 ??= (await readFile('/proc/self/cgroup', 'utf8')).split('\n').some((line) => line.includes(':freezer:'));
  return cgroupV1;
}
