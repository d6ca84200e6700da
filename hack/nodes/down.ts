import { readdir, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { destroyCgroups, labsWithCgroups } from './cgroups.ts';
import { codeOf, ifPresent, LabError } from './failure.ts';
import { removeTree } from './mounts.ts';
import { destroyInterfaces } from './network.ts';
import { REPO, runOf } from './paths.ts';
import { say, step } from './progress.ts';
import { isStarting, readRecord, recordedLabs, removeRecord } from './registry.ts';

/** Removes a lab, whatever state it is in; one that does not exist is already removed. */
export async function down(name: string): Promise<void> {
  await endStarter(name);
  await destroy(name);
}

/** Every lab on the machine that has left a trace. */
export async function knownLabs(): Promise<string[]> {
  const onDisk = await ifPresent(readdir(join(REPO, '.lab/run')), []);
  return [...new Set([...(await recordedLabs()), ...(await labsWithCgroups()), ...onDisk])].sort();
}

/**
 * Takes everything of a lab away. The cgroups go first: they name its processes, and a node that is only just starting
 * cannot start without them. The record goes last, so that an interrupted `down` can be repeated from any clone.
 */
export async function destroy(name: string): Promise<void> {
  const record = await readRecord(name);
  await step(`removing lab ${name}`, async () => {
    await destroyCgroups(name);
    await destroyInterfaces(name);
    await removeTree(runOf(record?.repo ?? REPO, name));
    await removeRecord(name);
    await removeIfEmpty(join(record?.repo ?? REPO, '.lab/run'));
  });
}

/** An `up` that is still at work is asked to stop; it then undoes its own part. */
async function endStarter(name: string): Promise<void> {
  const record = await readRecord(name);
  if (record === undefined || !(await isStarting(record))) return;
  say(`lab ${name} is being started by process ${record.starter.pid}: stopping that first`);
  process.kill(record.starter.pid, 'SIGTERM');
  for (let tries = 0; tries < 300; tries++) {
    if (!(await isStarting(record))) return;
    await sleep(100);
  }
  throw new LabError(`process ${record.starter.pid}, which starts lab ${name}, does not end`, {
    hint: `kill -9 ${record.starter.pid} and try again`,
  });
}

async function removeIfEmpty(folder: string): Promise<void> {
  try {
    await ifPresent(rmdir(folder), undefined);
  } catch (error) {
    if (codeOf(error) !== 'ENOTEMPTY') throw error;
  }
}
