import { runInNetwork } from '../../runtime/program.ts';
import { linesOf } from './read.ts';

/** A socket, as the tables of /proc/net have it (proc_pid_net(5)). */
export interface SocketRow {
  readonly table: string;
  readonly inode: number;
  /** Of TCP, UDP, raw and ICMP sockets: address:port. */
  readonly local: string;
  readonly remote: string;
  /** Of TCP: ESTABLISHED, LISTEN...; "" for others. */
  readonly state: string;
  /** Bytes not read yet; of one that listens: connections not accepted yet. */
  readonly queued: number;
  /** Of TCP: bytes sent, or still to be sent, that the other end has not acknowledged. */
  readonly unacknowledged: number;
}

const INET = ['tcp', 'tcp6', 'udp', 'udp6', 'udplite', 'udplite6', 'raw', 'raw6', 'icmp', 'icmp6'];

/** As include/net/tcp_states.h of Linux numbers them. */
const STATES = [
  '',
  ...['ESTABLISHED', 'SYN_SENT', 'SYN_RECV', 'FIN_WAIT1', 'FIN_WAIT2', 'TIME_WAIT', 'CLOSE', 'CLOSE_WAIT', 'LAST_ACK'],
  ...['LISTEN', 'CLOSING', 'NEW_SYN_RECV'],
];

/** Every socket of the network namespace that a process is in. */
export async function socketRows(pid: number): Promise<SocketRow[]> {
  const tables = [...INET, 'packet', 'unix', 'netlink'];
  const all = await Promise.all(
    tables.map(async (table) => parseTable(table, (await linesOf(`/proc/${pid}/net/${table}`)).slice(1))),
  );
  return all.flat();
}

/** Pure: `lines` without the one that names the columns. */
export function parseTable(table: string, lines: readonly string[]): SocketRow[] {
  const bare = { table, local: '', remote: '', state: '', queued: 0, unacknowledged: 0 };
  return lines.map((line) => {
    const words = line.trim().split(/\s+/);
    if (table === 'unix') return { ...bare, inode: Number(words[6]) };
    if (table === 'packet') return { ...bare, inode: Number(words[8]) };
    if (table === 'netlink') return { ...bare, inode: Number(words[9]), queued: Number(words[4]) };
    const [, local = '', remote = '', state = '', queues = ''] = words;
    const [sending = '0', received = '0'] = queues.split(':');
    const isTcp = table.startsWith('tcp');
    return {
      table,
      inode: Number(words[9]),
      local: addressOf(local),
      remote: addressOf(remote),
      state: isTcp ? (STATES[Number.parseInt(state, 16)] ?? state) : '',
      queued: Number.parseInt(received, 16),
      unacknowledged: isTcp ? Number.parseInt(sending, 16) : 0,
    };
  });
}

/** Pure: the words of an address are in the byte order of the machine, its port is not. */
export function addressOf(text: string): string {
  const [hex = '', port = '0'] = text.toLowerCase().split(':');
  const bytes = [...hex.matchAll(/(..)(..)(..)(..)/g)]
    .flatMap(([, a, b, c, d]) => [d, c, b, a])
    .map((byte) => byte ?? '');
  const number = Number.parseInt(port, 16);
  if (bytes.length === 4) return `${bytes.map((byte) => Number.parseInt(byte, 16)).join('.')}:${number}`;
  const mapped = bytes.slice(0, 12).join('') === '00000000000000000000ffff';
  if (mapped)
    return `${bytes
      .slice(12)
      .map((byte) => Number.parseInt(byte, 16))
      .join('.')}:${number}`;
  const groups = bytes.flatMap((byte, at) =>
    at % 2 === 0 ? [Number.parseInt(byte + (bytes[at + 1] ?? ''), 16).toString(16)] : [],
  );
  return `[${groups.join(':').replace(/(^|:)0(:0)+(:|$)/, '::')}]:${number}`;
}

/** The other end of each connected unix socket of a network namespace, by inode; 0: there is none. */
export async function unixPeers(pid: number, signal: AbortSignal): Promise<Map<number, UnixPeer>> {
  const text = await runInNetwork(`/proc/${pid}/ns/net`, 'ss', ['-x', '-a', '-n', '-H'], { signal });
  return parseUnixPeers(text);
}

export interface UnixPeer {
  readonly inode: number;
  readonly path: string;
}

/** Pure: `Netid State Recv-Q Send-Q Local Inode Peer Inode`, where a path may hold spaces. */
export function parseUnixPeers(text: string): Map<number, UnixPeer> {
  const peers = new Map<number, UnixPeer>();
  for (const [, path = '', own, peerPath = '', peer] of text.matchAll(
    /^u_\S+ +\S+ +\d+ +\d+ +(.+?) (\d+) +(.+?) (\d+) *$/gm,
  )) {
    peers.set(Number(own), { inode: Number(peer), path: peerPath === '*' ? path : peerPath });
  }
  return peers;
}
