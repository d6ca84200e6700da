import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm } from 'node:fs/promises';
import type { Readable, Transform, Writable } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { writeDurably } from '../durable.ts';
import { GantryError } from '../errors.ts';
import type { Bandwidth } from './bandwidth.ts';

/*
 * Bulk data between two agents, one connection each: CRIU's images as a tar stream, other folders by rsync. The
 * receiving side never takes a path from the sender: tar unpacks into one given folder, and rsync runs as a daemon
 * whose only module is the folder (chrooted there).
 *
 * What a transfer came to is what its program says: one whose connection breaks sees its input end and fails. A
 * connection that is only silent does not break: the signal ends the program then.
 */

/** How a stream is sent, or received. */
export interface Flow {
  /** Told of each chunk. */
  moved?: (bytes: number) => void;
  bandwidth?: Bandwidth | undefined;
}

/** Sends a folder as one tar stream and ends the sending half of the connection. Returns the bytes sent. */
export async function sendFolder(
  socket: TLSSocket,
  folder: string,
  signal?: AbortSignal,
  flow: Flow = {},
): Promise<number> {
  const tar = start('tar', ['-C', folder, '--sparse', '-cf', '-', '.'], ['ignore', 'pipe', 'pipe'], signal);
  const sent = pump(tar.stdio[1] as Readable, socket, flow);
  // Not a kill: a receiver that has everything may close before tar has ended. One that has more to write fails by this.
  socket.once('close', () => (tar.stdio[1] as Readable).destroy());
  await finished(tar, 'sending the checkpoint', signal);
  if (!socket.writableFinished && !socket.destroyed)
    await Promise.race([once(socket, 'finish'), once(socket, 'close')]);
  return sent.bytes;
}

/** Unpacks what {@link sendFolder} sends into `folder`. Returns the bytes received: the sender compares. */
export async function receiveFolder(
  socket: TLSSocket,
  folder: string,
  signal?: AbortSignal,
  flow: Flow = {},
): Promise<number> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const tar = start('tar', ['-C', folder, '--no-same-owner', '-xf', '-'], ['pipe', 'ignore', 'pipe'], signal);
  const received = pump(socket, tar.stdio[0] as Writable, flow);
  await finished(tar, `receiving the checkpoint into ${folder}`, signal);
  return received.bytes;
}

/** Makes the peer's folder the same as `folder`: owners, times, devices (whiteouts), extended attributes, hard links. */
export async function syncFiles(
  socket: TLSSocket,
  folder: string,
  signal?: AbortSignal,
  flow: Flow = {},
): Promise<number> {
  // rsync talks to its other end through the "remote shell" it is given; this one only joins two descriptors. It has to
  // end with the remote side, as ssh does: rsync waits for it.
  const shell = "sh -c 'exec 5<&0; cat <&5 >&4 & exec cat <&3'";
  const args = ['-aHAXS', '--numeric-ids', '--delete', '--timeout=60', `--rsh=${shell}`, `${folder}/`, 'peer::folder/'];
  const rsync = start('rsync', args, ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'], signal);
  pump(socket, rsync.stdio[3] as Writable);
  const sent = pump(rsync.stdio[4] as Readable, socket, flow);
  await finished(rsync, 'sending the files', signal);
  return sent.bytes;
}

/** The receiving end of {@link syncFiles}. `folder` must exist; `configuration` is the path of a file for rsync's. */
export async function receiveFiles(
  socket: TLSSocket,
  folder: string,
  configuration: string,
  signal?: AbortSignal,
  flow: Flow = {},
): Promise<number> {
  const options = [
    'uid = 0',
    'gid = 0',
    'use chroot = yes',
    'read only = no',
    'write only = yes',
    'munge symlinks = no',
  ];
  await writeDurably(
    configuration,
    `reverse lookup = no\nlog file = /dev/null\n[folder]\npath = ${folder}\n${options.join('\n')}\n`,
  );
  try {
    const rsync = start('rsync', ['--server', '--daemon', `--config=${configuration}`, '.'], 'pipe', signal);
    const received = pump(socket, rsync.stdio[0] as Writable, flow);
    pump(rsync.stdio[1] as Readable, socket);
    await finished(rsync, `receiving the files into ${folder}`, signal);
    return received.bytes;
  } finally {
    await rm(configuration, { force: true });
  }
}

interface Program {
  stdio: ChildProcess['stdio'];
  ended: Promise<{ code: number | null; said: string }>;
}

/** Node's own spawn: execa waits for every pipe to end, and a pipe that joins two programs' descriptors need not. */
function start(file: string, args: string[], stdio: StdioOptions, signal?: AbortSignal): Program {
  const child = spawn(file, args, { stdio });
  const kill = () => void child.kill();
  if (signal?.aborted) kill();
  signal?.addEventListener('abort', kill, { once: true });
  let said = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(0, 4096);
  });
  const ended = new Promise<{ code: number | null; said: string }>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => setImmediate(() => resolve({ code, said: said.trim() })));
  }).finally(() => signal?.removeEventListener('abort', kill));
  return { stdio: child.stdio, ended };
}

/** Copies until either side ends, and then ends the other; who ended it, and why, the program tells. */
function pump(from: Readable, to: Writable, { moved, bandwidth }: Flow = {}): { bytes: number } {
  const count = { bytes: 0 };
  const passed = bandwidth === undefined ? from : bandwidth.stream();
  passed.on('data', (chunk: Buffer) => {
    count.bytes += chunk.length;
    moved?.(chunk.length);
  });
  if (passed !== from) join(from, passed as Transform);
  join(passed, to);
  return count;
}

function join(from: Readable, to: Writable): void {
  from.on('error', () => to.end());
  from.on('close', () => to.end());
  to.on('error', () => from.unpipe(to).resume());
  from.pipe(to);
}

async function finished(program: Program, doing: string, signal?: AbortSignal): Promise<void> {
  const { code, said } = await program.ended;
  if (code === 0) return;
  if (signal?.aborted) throw new GantryError('CANCELLED', 'cancelled');
  const [first] = said.split('\n');
  // Of a file that grows until the disk is full, tar only says that it "wrote only" a part.
  const full = /No space left on device|Wrote only/.test(said);
  const why = full ? `No space left on device (${first})` : first || `exit code ${code}`;
  throw new GantryError(full ? 'NO_SPACE' : 'PEER_LOST', `${doing}: ${why}`, {
    hint: full ? 'free disk space there and try again' : '',
  });
}
