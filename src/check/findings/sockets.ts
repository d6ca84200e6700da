import { type ContainerFacts, socketInode } from '../facts.ts';
import { type Finding, some } from '../finding.ts';
import type { SocketRow } from '../proc/sockets.ts';

type Facts = Pick<ContainerFacts, 'descriptors' | 'rows' | 'named' | 'unixPeers' | 'later'>;

/** What a container talks through. */
export function socketFindings(facts: Facts): Finding[] {
  const own = ownInodes(facts);
  const rows = facts.rows.filter(({ inode }) => own.has(inode));
  return [...unusual(rows), ...others(facts), ...netlink(rows), ...inFlight(facts, own), ...external(facts, own)];
}

/** Pure: inodes of the sockets that a container's processes hold. */
export function ownInodes({ descriptors }: Pick<Facts, 'descriptors'>): Set<number> {
  return new Set(descriptors.map(({ link }) => socketInode(link)).filter((inode) => inode !== undefined));
}

const UNUSUAL = [
  { id: 'raw-socket', tables: ['raw', 'raw6'], what: 'raw' },
  { id: 'packet-socket', tables: ['packet'], what: 'packet' },
  { id: 'icmp-socket', tables: ['icmp', 'icmp6'], what: 'ICMP' },
];

function unusual(rows: readonly SocketRow[]): Finding[] {
  return UNUSUAL.flatMap(({ id, tables, what }) => {
    const found = rows.filter(({ table }) => tables.includes(table));
    if (found.length === 0) return [];
    return [
      {
        id,
        severity: 'warm' as const,
        seen: `${found.length} ${what} socket(s)`,
        why: 'the socket comes back, packets in its queue and those that pass meanwhile do not',
        todo: 'nothing when the program can do without them (ping, DHCP); stop a capture first',
      },
    ];
  });
}

/** Protocols that CRIU knows, and whose sockets are in a table once they are bound or connected. */
const KNOWN = /^(TCP|UDP|UDP-Lite|UDPLITE|RAW|PING|UNIX|UNIX-STREAM|NETLINK|PACKET)(v6)?$/;

function others({ named: sockets }: Facts): Finding[] {
  const places = (found: Facts['named']) =>
    some(found.map(({ pid, fd, protocol }) => `${protocol || 'a socket'} (PID ${pid}, fd ${fd})`));
  const mptcp = sockets.filter(({ protocol }) => protocol.startsWith('MPTCP'));
  const unknown = sockets.filter(({ protocol }) => protocol === '');
  const strange = sockets.filter(
    ({ protocol }) => protocol !== '' && !KNOWN.test(protocol) && !mptcp.some((one) => one.protocol === protocol),
  );
  return [
    ...(mptcp.length === 0
      ? []
      : [
          {
            id: 'mptcp-socket',
            severity: 'cold' as const,
            seen: places(mptcp),
            why: 'CRIU cannot dump sockets of MPTCP; programs in Go (1.24 and later) listen with them without being asked to',
            todo: 'Go: GODEBUG=multipathtcp=0; others: plain TCP, or sysctl net.mptcp.enabled=0 before they start',
          },
        ]),
    ...(strange.length === 0
      ? []
      : [
          {
            id: 'other-socket',
            severity: 'cold' as const,
            seen: places(strange),
            why: 'CRIU dumps TCP, UDP, raw, ICMP, unix, packet and netlink sockets, and fails at any other',
            todo: 'find out what opens it, and whether it can be turned off',
          },
        ]),
    ...(unknown.length === 0
      ? []
      : [
          {
            id: 'unknown-socket',
            severity: 'warm' as const,
            seen: places(unknown),
            why: 'no table of the kernel has it: it is bound to nothing, or of a family that CRIU cannot dump',
            todo: 'install perl on this node, with which it can be told',
          },
        ]),
  ];
}

function netlink(rows: readonly SocketRow[]): Finding[] {
  const found = rows.filter(({ table, queued }) => table === 'netlink' && queued > 0);
  if (found.length === 0) return [];
  return [
    {
      id: 'netlink-unread',
      severity: 'cold',
      seen: `${found.length} netlink socket(s) with ${found.reduce((sum, { queued }) => sum + queued, 0)} bytes that nobody has read`,
      why: 'CRIU cannot dump a netlink socket with messages in its queue',
      todo: 'check again: it is over once the program has read them; one that never reads has to be fixed',
    },
  ];
}

function inFlight({ rows, later }: Facts, own: ReadonlySet<number>): Finding[] {
  const waiting = (all: readonly SocketRow[]) =>
    all.filter(
      ({ table, state, queued, inode }) =>
        table.startsWith('tcp') && state === 'LISTEN' && queued > 0 && own.has(inode),
    );
  const [before, after] = [waiting(rows), waiting(later.rows)];
  const lasting = after.filter(({ inode }) => before.some((one) => one.inode === inode));
  const half = rows.filter(
    ({ table, state, inode }) => table.startsWith('tcp') && state === 'SYN_SENT' && own.has(inode),
  );
  const tell = (found: readonly SocketRow[]) => some(found.map(({ local, queued }) => `${queued} at ${local}`));
  const backlog = {
    id: 'connection-backlog',
    why: 'CRIU does not dump a listening socket with connections that are not accepted yet',
  };
  return [
    ...(lasting.length > 0
      ? [
          {
            ...backlog,
            severity: 'cold' as const,
            seen: `connections that nobody has accepted during the whole window: ${tell(lasting)}`,
            todo: 'find out why the program does not accept; gantry checkpoint --tcp-skip-in-flight leaves them out',
          },
        ]
      : before.length + after.length > 0
        ? [
            {
              ...backlog,
              severity: 'warm' as const,
              seen: `connections that were not accepted at one moment: ${tell([...before, ...after])}`,
              todo: 'nothing when it is a burst: a dump at such a moment fails and can be tried again',
            },
          ]
        : []),
    ...(half.length === 0
      ? []
      : [
          {
            id: 'half-open-connection',
            severity: 'warm' as const,
            seen: `connecting: ${some(half.map(({ remote }) => remote))}`,
            why: 'a connection that is being made is made anew after the move, and takes longer',
            todo: 'nothing; check again if it lasts: the other side does not answer',
          },
        ]),
  ];
}

function external({ rows, unixPeers }: Facts, own: ReadonlySet<number>): Finding[] {
  const found = rows.flatMap(({ table, inode }) => {
    const peer = table === 'unix' && own.has(inode) ? unixPeers.get(inode) : undefined;
    return peer === undefined || peer.inode === 0 || own.has(peer.inode) ? [] : [peer.path];
  });
  if (found.length === 0) return [];
  return [
    {
      id: 'external-unix-socket',
      severity: 'cold',
      seen: `the other end of ${found.length} unix socket(s) is not in the container: ${some([...new Set(found)])}`,
      why: 'a connection of which the other end stays where it is cannot be taken along: the dump fails',
      todo: 'close it before the move, or use TCP; gantry checkpoint --ext-unix-sk allows datagram sockets',
    },
  ];
}

/** Connections from one container to another over the loopback device of their pod. */
export function loopbackFindings(containers: readonly (Facts & Pick<ContainerFacts, 'name'>)[]): Finding[] {
  const found = new Set<string>();
  const holders = containers.map((facts) => ({ name: facts.name, own: ownInodes(facts) }));
  const holder = (inode: number) => holders.find(({ own }) => own.has(inode))?.name;
  const rows = (containers[0]?.rows ?? []).filter(
    ({ table, state }) => table.startsWith('tcp') && state === 'ESTABLISHED',
  );
  const byEnds = new Map(rows.map((row) => [`${row.local} ${row.remote}`, row]));
  for (const row of rows) {
    const other = byEnds.get(`${row.remote} ${row.local}`);
    const [here, there] = [holder(row.inode), other && holder(other.inode)];
    if (here !== undefined && there !== undefined && here < there)
      found.add(`${here} and ${there} (${row.local}, ${row.remote})`);
  }
  if (found.size === 0) return [];
  return [
    {
      id: 'loopback-between-containers',
      severity: 'hot',
      seen: some([...found]),
      why: 'the pod as a whole keeps them; a container that leaves alone does not: its end is answered with a reset',
      todo: 'nothing when the pod moves as a whole',
    },
  ];
}
