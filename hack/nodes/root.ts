import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EXIT, ifPresent, LabError } from './failure.ts';
import { isolated } from './isolated.ts';
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

async function bootstrap(suite: Suite, folder: string, signal: AbortSignal): Promise<void> {
  const mirror = process.env.GANTRY_DEBIAN_MIRROR ?? '';
  const args = [
    ...[folder, '--variant=minbase', `--include=${suite.packages.join(',')}`],
    ...[suite.name, folder, mirror, ...(suite.script === undefined ? [] : [suite.script])],
  ];
  await isolated(BOOTSTRAP, args, {
    log: `${folder}.log`,
    what: `debootstrap of ${suite.name}`,
    hint: 'a mirror can be chosen with GANTRY_DEBIAN_MIRROR=URL',
    signal,
  });
}

// The root keeps what nodes use: no package archives, lists, documentation or name servers of the host.
const BOOTSTRAP = `
root=$1
shift
debootstrap "$@"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/man \
  "$root"/usr/share/locale "$root"/usr/share/info "$root"/var/log/*
rm -f "$root"/etc/resolv.conf "$root"/etc/hostname
`;
