import { readdir, readlink } from 'node:fs/promises';
import { type SocketRow, socketRows } from '../check/proc/sockets.ts';
import { runInNetwork } from '../runtime/program.ts';

/** Of one call of ss, whose arguments are limited. */
const MOST = 500;
const CONNECTED = new Set(['ESTABLISHED', 'FIN_WAIT1', 'FIN_WAIT2', 'CLOSE_WAIT', 'LAST_ACK', 'CLOSING']);

/**
 * Takes the TCP connections of frozen processes away without a word to the other ends: what is sent is dropped by the
 * network, which has to be shut. When the processes are killed afterwards, nothing says goodbye in their name, and no rest
 * of a connection holds its addresses: whoever is restored from their checkpoint can go on with it.
 */
export async function forgetConnections(netns: string, pids: readonly number[]): Promise<void> {
  const [first] = pids;
  if (first === undefined) return;
  const inodes = new Set((await Promise.all(pids.map(socketsOf))).flat());
  const filters = (await socketRows(first)).filter(({ inode }) => inodes.has(inode)).flatMap(filterFor);
  for (let at = 0; at < filters.length; at += MOST) {
    await runInNetwork(netns, 'ss', ['-K', '-t', '-a', '-n', '-H', filters.slice(at, at + MOST).join(' or ')]);
  }
}

/** Takes away what is left of connections whose processes have ended. Linux since 6.12 does; before, they take their time. */
export async function forgetClosing(netns: string): Promise<void> {
  const states = ['fin-wait-1', 'closing', 'last-ack'].flatMap((state) => ['state', state]);
  await runInNetwork(netns, 'ss', ['-K', '-t', '-n', '-H', ...states]);
}

/** Pure: as ss(8) selects a connection; none for a socket that is in no connection. */
export function filterFor({ state, local, remote }: Pick<SocketRow, 'state' | 'local' | 'remote'>): string[] {
  return CONNECTED.has(state) ? [`( src ${local} and dst ${remote} )`] : [];
}

/** Inodes. */
async function socketsOf(pid: number): Promise<number[]> {
  const folder = `/proc/${pid}/fd`;
  const links = (await readdir(folder).catch(() => [])).map((fd) => readlink(`${folder}/${fd}`).catch(() => ''));
  return (await Promise.all(links)).flatMap((link) => {
    const [, inode] = /^socket:\[(\d+)\]$/.exec(link) ?? [];
    return inode === undefined ? [] : [Number(inode)];
  });
}
