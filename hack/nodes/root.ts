import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { EXIT, ifPresent, LabError } from './failure.ts';
import { lock } from './lock.ts';
import { removeTree } from './mounts.ts';
import { cachedRoot, REPO } from './paths.ts';
import { step } from './progress.ts';
import { readRecord, recordedLabs } from './registry.ts';
import { keyOf, type Suite } from './suites.ts';

/** Says inside a root what it was made from; written last. */
const MARKER = 'etc/gantry-lab-root';

/** The cached root of a suite, made with debootstrap when there is none or its package list has changed. */
export async function ensureRoot(suite: Suite, signal: AbortSignal): Promise<string> {
  const root = cachedRoot(suite.name);
  if (await isCurrent(root, suite)) return root;
  await using _held = await lock(`${root}.lock`, signal);
  if (await isCurrent(root, suite)) return root;
  await refuseWhileUsed(suite);
  await step(`making the root of ${suite.name} with debootstrap (once, about a minute)`, async () => {
    const fresh = `${root}.new`;
    await removeTree(fresh);
    await bootstrap(suite, fresh, signal);
    await writeFile(join(fresh, MARKER), `${keyOf(suite)}\n`);
    await removeTree(root);
    await rename(fresh, root);
  });
  return root;
}

async function isCurrent(root: string, suite: Suite): Promise<boolean> {
  return (await ifPresent(readFile(join(root, MARKER), 'utf8'), '')).trim() === keyOf(suite);
}

/** A root of another package list is about to be replaced: running nodes have it as the lower layer of theirs. */
async function refuseWhileUsed(suite: Suite): Promise<void> {
  const labs = (await Promise.all((await recordedLabs()).map(readRecord))).filter((lab) => lab !== undefined);
  const users = labs.filter((lab) => lab.repo === REPO && lab.suite === suite.name && lab.state === 'up');
  if (users.length === 0) return;
  throw new LabError(
    `the root of ${suite.name} is out of date, and ${users.map(({ name }) => name).join(', ')} runs on it`,
    {
      hint: users.map(({ name }) => `hack/lab down --name ${name}`).join('; '),
      exitCode: EXIT.busy,
    },
  );
}

/**
 * debootstrap in mount and PID namespaces of its own: when it or we are killed, every process and mount it made goes
 * with them, and nothing writes to the folder any more.
 */
async function bootstrap(suite: Suite, folder: string, signal: AbortSignal): Promise<void> {
  const mirror = process.env.GANTRY_DEBIAN_MIRROR ?? '';
  const log = `${folder}.log`;
  const result = await execa(
    'setpriv',
    [
      ...['--pdeathsig', 'KILL', 'unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc'],
      ...['sh', '-euc', BOOTSTRAP, 'sh', folder, '--variant=minbase', `--include=${suite.packages.join(',')}`],
      ...[suite.name, folder, mirror, ...(suite.script === undefined ? [] : [suite.script])],
    ],
    {
      reject: false,
      stdin: 'ignore',
      timeout: 15 * 60_000,
      forceKillAfterDelay: 1000,
      cancelSignal: signal,
    },
  );
  signal.throwIfAborted();
  if (!result.failed) return;
  const said = (await ifPresent(readFile(log, 'utf8'), '')).trim().split('\n').slice(-5).join('\n  ');
  throw new LabError(`debootstrap of ${suite.name} failed:\n  ${said}`, {
    hint: `read ${log}; a mirror can be chosen with GANTRY_DEBIAN_MIRROR=URL`,
  });
}

// The root keeps what nodes use: no package archives, lists, documentation or name servers of the host.
const BOOTSTRAP = `
root=$1
shift
exec >"$root.log" 2>&1
debootstrap "$@"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/man \
  "$root"/usr/share/locale "$root"/usr/share/info "$root"/var/log/*
rm -f "$root"/etc/resolv.conf "$root"/etc/hostname
`;
