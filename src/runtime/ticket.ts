import { constants } from 'node:fs';
import { copyFile, mkdir, open, realpath, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exists, makePrivateFolder } from '../durable.ts';
import { errnoOf, GantryError } from '../errors.ts';
import type { RestoreOptions } from './criu.ts';
import { endWithChildren, findProcesses } from './processes.ts';
import { run } from './program.ts';
import { linkRegrouped } from './regroup.ts';

/** Stands beside this file, and beside the bundle. */
const GATE = new URL('./restore-gate.sh', import.meta.url);
/** A restore of hundreds of processes logs some megabytes. */
const LOG_LIMIT_BYTES = 64 * 1024 * 1024;

/**
 * Ends whatever still restores with a ticket below `spent`. When a start ends early (its caller, or containerd, is gone),
 * the shim kills the hook and nothing below it: runtime and CRIU go on, and would let the tasks run after all.
 */
export async function endRestores(spent: string): Promise<void> {
  const isOurs = (args: readonly string[]) =>
    args.includes('restore') && args.some((arg) => arg.startsWith(`${spent}/`));
  const restores = await findProcesses(isOurs);
  await endWithChildren(restores.map(({ pid }) => pid));
  for (const { args } of restores) {
    // The runtime can no longer remove its own record of the container (where it has mounted the root folder for CRIU),
    // and containerd knows of none.
    const [runtime = '', ...rest] = args;
    const root = rest[rest.indexOf('--root') + 1] ?? '';
    const container = args.at(-1) ?? '';
    const mounted = join(root, container, 'criu-root');
    if (await exists(mounted)) await run('umount', ['--lazy', mounted]).catch(() => undefined);
    await run(runtime, ['--root', root, 'delete', '--force', container]);
  }
}

/**
 * A one-shot order to the OCI hook (oci-hook.sh): the next `create` of this container restores from these images.
 * The restore stops at its gate, complete and with all tasks stopped, until {@link Ticket.release}.
 */
export class Ticket {
  readonly #spent: string;
  readonly #ticket: string;

  private constructor(runDir: string, container: string) {
    this.#ticket = join(runDir, 'tickets', container);
    this.#spent = join(runDir, 'spent', container);
  }

  /** Writes the ticket, complete or not at all. `images` is the folder with CRIU's images; it stays the caller's. */
  static async issue(
    runDir: string,
    container: string,
    images: string,
    { args, lines, cgroup }: RestoreOptions,
  ): Promise<Ticket> {
    const ticket = new Ticket(runDir, container);
    const draft = `${ticket.#ticket}.new`;
    await makePrivateFolder(join(runDir, 'tickets'));
    await makePrivateFolder(join(runDir, 'spent'));
    await rm(draft, { recursive: true, force: true });
    await mkdir(draft, { mode: 0o700 });
    if (cgroup === undefined) await symlink(images, join(draft, 'checkpoint'));
    else
      await linkRegrouped(
        images,
        join(draft, 'checkpoint'),
        join(await realpath(join(runDir, 'spent')), container, 'checkpoint'),
        cgroup,
      );
    await writeFile(join(draft, 'options'), args.map((option) => `${option}\n`).join(''));
    if (cgroup !== undefined) await writeFile(join(draft, 'cgroup'), `${cgroup}\n`);
    await copyFile(GATE, join(draft, 'gate.sh'));
    await run('mkfifo', ['-m', '600', join(draft, 'gate')]);
    const configuration = ['network-lock skip', `action-script ${join(ticket.#spent, 'gate.sh')}`, ...lines];
    await writeFile(join(draft, 'criu.conf'), `${configuration.join('\n')}\n`);
    await rename(draft, ticket.#ticket);
    return ticket;
  }

  /**
   * Resolves when the restore has reached its gate. Rejects with the signal's reason, and with RESTORE_FAILED for a CRIU
   * that only writes its log: with a damaged page file it does so for ever, on a tmpfs.
   */
  async poised(signal: AbortSignal): Promise<void> {
    const mark = join(this.#spent, 'poised');
    while (!(await exists(mark))) {
      signal.throwIfAborted();
      const { size } = await stat(this.log).catch(() => ({ size: 0 }));
      if (size > LOG_LIMIT_BYTES) {
        throw new GantryError('RESTORE_FAILED', `CRIU comes to no end: ${this.log} has grown to ${size} bytes`, {
          hint: 'the checkpoint is probably damaged',
        });
      }
      await sleep(2);
    }
  }

  /** Lets the restored tasks run; their first instruction comes within a millisecond. */
  release(): Promise<void> {
    return this.#say('go');
  }

  /** Ends a restore that was not released: at its gate by a word, on its way there by force. */
  async refuse(): Promise<void> {
    if (await exists(join(this.#spent, 'poised'))) await this.#say('no').catch(() => undefined);
    else await this.end();
  }

  /** CRIU's log of the restore. */
  get log(): string {
    return join(this.#spent, 'restore.log');
  }

  /** Ends by force what still works on the ticket. */
  end(): Promise<void> {
    return endRestores(this.#spent);
  }

  /** Removes what is left of the ticket. Only after the runtime's call has returned. */
  async discard(): Promise<void> {
    await rm(this.#ticket, { recursive: true, force: true });
    await rm(this.#spent, { recursive: true, force: true });
  }

  async #say(word: string): Promise<void> {
    // The gate's reader opens the pipe right after it has said that it is poised; before that, opening fails.
    for (let attempt = 0; attempt < 1000; attempt++) {
      try {
        await using handle = await open(join(this.#spent, 'gate'), constants.O_WRONLY | constants.O_NONBLOCK);
        await handle.writeFile(`${word}\n`);
        return;
      } catch (error) {
        if (errnoOf(error) !== 'ENXIO') throw error;
        await sleep(1);
      }
    }
    throw new GantryError('RESTORE_FAILED', 'the restore no longer waits at its gate');
  }
}
