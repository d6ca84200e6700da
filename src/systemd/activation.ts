import { fstatSync, readFileSync } from 'node:fs';
import { GantryError } from '../errors.ts';

// sd_listen_fds(3): passed file descriptors begin here.
const FIRST_FD = 3;
const VARIABLES = ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES'] as const;

/** A listening socket that the service manager holds and has passed to this process. It is not ours to remove. */
export interface PassedSocket {
  readonly fd: number;
  /** Where it is bound; undefined when the kernel does not tell. */
  readonly path: string | undefined;
}

/**
 * The socket called `name` (FileDescriptorName= of its unit) that systemd has passed, or the only one whatever it is
 * called. The variables that tell of it go, so that no child takes them for its own.
 *
 * Errors: USAGE, when several sockets were passed and none has that name, or what was passed is no socket.
 */
export function takePassedSocket(name: string, env = process.env, pid = process.pid): PassedSocket | undefined {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES = '' } = env;
  const count = Number(LISTEN_FDS ?? 0);
  // Inherited from a parent that was activated itself: not meant for this process.
  if (Number(LISTEN_PID) !== pid || !(count > 0)) return undefined;
  for (const variable of VARIABLES) delete env[variable];
  const index = count === 1 ? 0 : LISTEN_FDNAMES.split(':').indexOf(name);
  if (index < 0) {
    throw new GantryError('USAGE', `systemd passed ${count} sockets (${LISTEN_FDNAMES}), and none is called ${name}`, {
      hint: `set FileDescriptorName=${name} in the socket's unit`,
    });
  }
  const fd = FIRST_FD + index;
  if (!isSocket(fd)) throw new GantryError('USAGE', `LISTEN_FDS tells of a socket, but descriptor ${fd} is none`);
  return { fd, path: pathOf(fd) };
}

function isSocket(fd: number): boolean {
  try {
    return fstatSync(fd).isSocket();
  } catch {
    return false;
  }
}

/** Node has no getsockname for unix sockets; the kernel lists them by inode (proc(5), /proc/net/unix). */
function pathOf(fd: number): string | undefined {
  const inode = String(fstatSync(fd).ino);
  try {
    for (const line of readFileSync('/proc/self/net/unix', 'utf8').split('\n')) {
      const [, found, path] = /^\S+ \S+ \S+ \S+ \S+ \S+ +(\d+) (\/.*)$/.exec(line) ?? [];
      if (found === inode) return path;
    }
  } catch {
    // No /proc: only the name is lost.
  }
  return undefined;
}
