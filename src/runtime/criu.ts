import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TcpMode } from '../archive/layout.ts';
import { writeDurably } from '../durable.ts';
import { errnoOf, GantryError } from '../errors.ts';
import { RUNC_ROOT, runtimeOf } from './containerd.ts';
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
]);

/** What the runtimes tell CRIU themselves, over what its configuration says: here they have to be told. */
const RUNTIMES_OWN = {
  runc: new Set(['ext-unix-sk', 'link-remap', 'tcp-skip-in-flight']),
  crun: new Set(['ext-unix-sk']),
};

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
  const configuration = join(work, 'criu.conf');
  // The pod's network is shut already, and CRIU's own lock would leave its rules behind after a failure.
  const lines = ['network-lock skip', ...(options.tcp === 'close' ? ['tcp-close'] : []), ...(options.lines ?? [])];
  await writeDurably(configuration, `${lines.join('\n')}\n`);
  const args = ['checkpoint', '--image-path', images, '--work-path', work, '--leave-running', '--file-locks'];
  if (options.tcp === 'established') args.push('--tcp-established');
  if (await onCgroupV1()) args.push('--manage-cgroups-mode', 'ignore');
  const runtime = await runtimeOf(container);
  args.push(
    ...(options.lines ?? []).flatMap((line) => (RUNTIMES_OWN[runtime].has(line.trim()) ? [`--${line.trim()}`] : [])),
  );
  try {
    await run(runtime, ['--root', RUNC_ROOT, ...args, container], {
      reason: 'CHECKPOINT_FAILED',
      env: { CRIU_CONFIG_FILE: configuration },
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

/** Options of `runc restore` that fit a {@link dump}, and lines of CRIU's configuration. */
export async function restoreOptions({ tcp, lines = [] }: CriuOptions): Promise<{ args: string[]; lines: string[] }> {
  const args = ['--file-locks'];
  if (tcp === 'established') args.push('--tcp-established');
  if (lines.includes('ext-unix-sk')) args.push('--ext-unix-sk');
  // On v1 the image holds the freezer's state, which would be written back; on v2 `ignore` loses the private namespace.
  if (await onCgroupV1()) args.push('--manage-cgroups-mode', 'ignore');
  return { args, lines: [...(tcp === 'close' ? ['tcp-close'] : []), ...lines] };
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

function hintFor(reason: string): string {
  if (reason.includes('Connected TCP socket'))
    return 'it has open TCP connections: use --tcp established, or --tcp close';
  if (reason.includes('io_uring')) return 'CRIU cannot dump io_uring; turn it off in the application';
  return "CRIU's whole log is in the agent's log folder";
}

let cgroupV1: boolean | undefined;

async function onCgroupV1(): Promise<boolean> {
  cgroupV1 ??= (await readFile('/proc/self/cgroup', 'utf8')).split('\n').some((line) => line.includes(':freezer:'));
  return cgroupV1;
}
