import { SocketAddress } from 'node:net';
import type { FileEntry, InetSkEntry, UnixSkEntry } from '../gen/criu.ts';
import type { FileTable } from './file-table.ts';
import type { ImageSet } from './image-set.ts';

export interface Endpoint {
  readonly address: string;
  readonly port: number;
}

export interface Socket {
  /** CRIU's number of the file, as in an open file; 0 for one that no descriptor stands for. */
  readonly id: number;
  readonly inode?: number;
  readonly family: 'inet' | 'inet6' | 'unix' | 'packet' | 'netlink';
  /** "stream", "dgram" … */
  readonly type: string;
  /** "tcp", "udp" …; the number of one that has no name here. A unix socket has none. */
  readonly protocol?: string;
  /** "ESTABLISHED", "LISTEN" …; "CLOSE" of one without a connection. */
  readonly state: string;
  readonly listening: boolean;
  /** How many connections may wait to be accepted. */
  readonly backlog?: number;
  readonly source?: Endpoint;
  readonly peer?: Endpoint;
  /** Of a unix socket that has a name; "@" stands for the first zero byte of an abstract one. */
  readonly path?: string;
  /** Inode of the unix socket at the other end. */
  readonly peerInode?: number;
  /** Bytes that were received and not read, and sent and not acknowledged, of a TCP connection in the checkpoint. */
  readonly queues?: { readonly receivedBytes: number; readonly sentBytes: number };
}

const TYPE: Readonly<Record<number, string>> = { 1: 'stream', 2: 'dgram', 3: 'raw', 5: 'seqpacket', 10: 'packet' };
const PROTOCOL: Readonly<Record<number, string>> = {
  0: 'ip',
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  58: 'icmpv6',
  132: 'sctp',
  136: 'udplite',
  255: 'raw',
  262: 'mptcp',
};
/** Of Linux's net/tcp_states.h, from 1 on; unix sockets have the same. */
const STATE = [
  ...['ESTABLISHED', 'SYN_SENT', 'SYN_RECV', 'FIN_WAIT1', 'FIN_WAIT2', 'TIME_WAIT', 'CLOSE', 'CLOSE_WAIT', 'LAST_ACK'],
  ...['LISTEN', 'CLOSING', 'NEW_SYN_RECV'],
];
const LISTEN = 10;
const CLOSE = 7;
const AF_INET6 = 10;

/** Every socket of the checkpoint, in the order of the images. */
export async function readSockets(images: ImageSet, { entries }: FileTable): Promise<Socket[]> {
  const sockets: Socket[] = [];
  const queues = new QueueTable(images);
  for (const entry of entries) {
    if (entry.isk !== undefined) sockets.push(inetSocket(entry.isk, await queues.read(entry.isk.ino)));
    else if (entry.usk !== undefined) sockets.push(unixSocket(entry.usk));
    else sockets.push(...otherSocket(entry));
  }
  return sockets;
}

/** What waits in the connections: each image is read once, however many sockets say that it is theirs. */
class QueueTable {
  readonly #images: ImageSet;
  readonly #known = new Map<number, Socket['queues']>();

  constructor(images: ImageSet) {
    this.#images = images;
  }

  async read(inode: number): Promise<Socket['queues']> {
    if (!this.#known.has(inode)) {
      const stream = await this.#images.entry('TCP_STREAM', inode);
      this.#known.set(inode, stream && { receivedBytes: stream.inq_len, sentBytes: stream.outq_len });
    }
    return this.#known.get(inode);
  }
}

function inetSocket(socket: InetSkEntry, queues: Socket['queues']): Socket {
  const { id, ino, family, src_addr, src_port, dst_addr, dst_port, proto, backlog } = socket;
  const connected = dst_port !== 0 || dst_addr.some((word) => word !== 0);
  return {
    id,
    inode: ino,
    family: family === AF_INET6 ? 'inet6' : 'inet',
    type: TYPE[socket.type] ?? String(socket.type),
    protocol: PROTOCOL[proto] ?? String(proto),
    ...stateOf(socket.state),
    backlog,
    source: { address: addressOf(src_addr), port: src_port },
    ...(connected ? { peer: { address: addressOf(dst_addr), port: dst_port } } : {}),
    ...(queues === undefined ? {} : { queues }),
  };
}

function unixSocket({ id, ino, type, state, backlog, name, peer }: UnixSkEntry): Socket {
  const path = unixPath(name);
  return {
    id,
    inode: ino,
    family: 'unix',
    type: TYPE[type] ?? String(type),
    ...stateOf(state),
    backlog,
    ...(path === '' ? {} : { path }),
    ...(peer === 0 ? {} : { peerInode: peer }),
  };
}

function otherSocket({ psk, nlsk }: FileEntry): Socket[] {
  if (psk !== undefined) {
    const { id, type, protocol } = psk;
    const name = TYPE[type] ?? String(type);
    return [{ id, family: 'packet', type: name, protocol: String(protocol), ...stateOf(CLOSE) }];
  }
  if (nlsk === undefined) return [];
  const { id, ino, protocol, state } = nlsk;
  // Type SOCK_RAW and SOCK_DGRAM are the same to netlink, and not in the image.
  return [{ id, inode: ino, family: 'netlink', type: 'raw', protocol: String(protocol), ...stateOf(state) }];
}

function stateOf(state: number): { state: string; listening: boolean } {
  return { state: STATE[state - 1] ?? String(state), listening: state === LISTEN };
}

/** The words are the address's bytes as they lie in memory; every machine that Gantry knows is little endian. */
function addressOf(words: readonly number[]): string {
  const bytes = Buffer.alloc(words.length > 1 ? 16 : 4);
  for (const [index, word] of words.slice(0, bytes.length / 4).entries()) bytes.writeUInt32LE(word, index * 4);
  if (bytes.length === 4) return bytes.join('.');
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16));
  return new SocketAddress({ address: groups.join(':'), family: 'ipv6' }).address;
}

function unixPath(name: Uint8Array): string {
  const bytes = Buffer.from(name);
  if (bytes[0] === 0) return `@${bytes.subarray(1).toString('utf8')}`;
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
}
