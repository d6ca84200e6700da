import { once } from 'node:events';
import { chmod, chown, lstat, mkdtemp, rename, rmdir, stat, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { join } from 'node:path';
import { errnoOf, GantryError, messageOf } from '../errors.ts';

// sun_path holds 107 bytes (unix(7)), and the socket is bound inside a folder beside its place: ".XXXXXX/s".
const PATH_BYTES = 107 - '.XXXXXX/s'.length;
// Clients that connect while nobody accepts wait here (the kernel takes at most net.core.somaxconn, 4096). Node says 511
// when it is not told, also to a socket that systemd had given more.
const BACKLOG = 4096;

/**
 * Makes `server` listen on a unix socket that takes the place of a stale one, never that of a live one. It is bound
 * in a private folder and moved into place with its owner and mode set, so there is no moment at which others may connect.
 *
 * @param like a socket whose owner and mode it gets; 0600 without
 * @returns a function that removes the socket, unless it is another program's by then
 */
export async function listenOn(server: Server, path: string, like?: string): Promise<() => Promise<void>> {
  if (Buffer.byteLength(path) > PATH_BYTES) {
    throw new GantryError('USAGE', `the socket path ${path} is too long`, { hint: `use at most ${PATH_BYTES} bytes` });
  }
  await refuseLive(path);
  const folder = await mkdtemp(`${path}.`).catch((error: unknown) => {
    throw new GantryError('USAGE', `cannot make a socket at ${path}: ${messageOf(error)}`, {
      cause: error,
      hint: 'its folder must exist and be writable',
    });
  });
  const bound = join(folder, 's');
  try {
    server.listen({ path: bound, backlog: BACKLOG });
    await once(server, 'listening');
    await copyAccess(like, bound);
    await rename(bound, path);
  } finally {
    await unlink(bound).catch(ignoreMissing);
    await rmdir(folder);
  }
  const { dev, ino } = await lstat(path);
  return async () => {
    const now = await lstat(path).catch(ignoreMissing);
    if (now?.dev === dev && now.ino === ino) await unlink(path).catch(ignoreMissing);
  };
}

/**
 * Makes `server` listen on a descriptor that is bound already. Whoever passed it keeps it open and hands it to the next
 * process: the socket stays, and clients that come in between wait in its queue.
 */
export async function listenOnPassed(server: Server, fd: number): Promise<() => Promise<void>> {
  server.listen({ fd }, BACKLOG); // of a descriptor it takes no "backlog" among the options
  await once(server, 'listening');
  return () => Promise.resolve();
}

async function refuseLive(path: string): Promise<void> {
  const present = await lstat(path).catch(ignoreMissing);
  if (present === undefined) return;
  if (!present.isSocket())
    throw new GantryError('USAGE', `${path} exists and is not a socket`, { hint: 'choose another path' });
  if (await answers(path)) {
    throw new GantryError('BUSY', `another program is listening on ${path}`, {
      hint: 'stop it first, or choose another path',
    });
  }
}

// Only ECONNREFUSED means that nobody listens; a full backlog (EAGAIN) or a refused permission means that somebody does.
async function answers(path: string): Promise<boolean> {
  const probe = connect(path);
  try {
    await once(probe, 'connect');
    return true;
  } catch (error) {
    return errnoOf(error) !== 'ECONNREFUSED' && errnoOf(error) !== 'ENOENT';
  } finally {
    probe.destroy();
  }
}

/** Whoever may use the runtime's socket may use this one, and nobody else; 0600 when there is nothing to copy. */
async function copyAccess(like: string | undefined, path: string): Promise<void> {
  await chmod(path, 0o600);
  const upstream = like === undefined ? undefined : await stat(like).catch(() => undefined);
  if (upstream === undefined) return;
  try {
    await chown(path, upstream.uid, upstream.gid);
  } catch {
    return; // not root: a mode for another owner's group would open it to the wrong one
  }
  await chmod(path, upstream.mode & 0o777);
}

function ignoreMissing(error: unknown): undefined {
  if (errnoOf(error) !== 'ENOENT') throw error;
}
