import type { Endpoint } from '../criu/sockets.ts';
import { commandLine, filesOf, type InspectedProcess, type InspectedSocket, type Inspection } from './inspection.ts';
import { formatBytes, formatUs, printable } from './units.ts';

/** A table, the first row its heading; `title` is what stands above it. */
export interface Table {
  readonly title?: string;
  readonly rows: readonly (readonly string[])[];
}

/** What is shown besides whose it is and which processes are in it. */
export interface Sections {
  readonly memory: boolean;
  readonly files: boolean;
  readonly sockets: boolean;
  readonly mounts: boolean;
  readonly volumes: boolean;
  readonly environment: boolean;
  readonly statistics: boolean;
}

/** The checkpoint as tables for people. Whatever is from the checkpoint cannot move a terminal's cursor. */
export function tablesOf(inspection: Inspection, sections: Sections): Table[] {
  const processes = flat(inspection.processes);
  const tables: Table[] = [
    { rows: factRows(inspection) },
    { rows: [['PID', 'PROCESS', 'MEMORY', 'THREADS', 'UID', 'FILES'], ...treeRows(inspection.processes)] },
  ];
  if (sections.memory) tables.push(memoryTable(processes, inspection));
  if (sections.files) tables.push(filesTable(processes));
  if (sections.sockets) tables.push(socketsTable(inspection.sockets));
  if (sections.mounts) tables.push(mountsTable(inspection));
  if (sections.volumes) tables.push(volumesTable(inspection));
  if (sections.environment) tables.push(environmentTable(processes));
  if (sections.statistics) tables.push({ title: 'The dump', rows: statisticsRows(inspection) });
  return tables.map(({ title, rows }) => ({
    ...(title === undefined ? {} : { title }),
    rows: rows.map((row) => row.map(printable)),
  }));
}

function factRows(inspection: Inspection): string[][] {
  const { container, pod, addresses, image, node, created, maker, criu, kernel, architecture, parent } = inspection;
  const packing = inspection.packing === 'plain' ? 'archive' : inspection.packing;
  const tools = [maker, criu && `CRIU ${criu}`, kernel && `Linux ${kernel}`, architecture];
  const { dump } = inspection.statistics;
  return [
    ['container', `${container.name || '(unknown)'}${container.id && ` (${container.id.slice(0, 13)})`}`],
    ['pod', [pod.namespace, pod.name].filter(Boolean).join('/') || '(unknown)'],
    ['image', image.name || image.id || '(unknown)'],
    ['node', node || '(unknown)'],
    ['created', created || '(unknown)'],
    ['made by', tools.filter(Boolean).join(', ')],
    ['runtime', inspection.runtime || '(unknown)'],
    ['addresses', addresses.join(', ') || '(unknown)'],
    ['connections', connectionsOf(inspection)],
    ['memory', `${formatBytes(inspection.memoryBytes)}${parent === undefined ? '' : ` written since ${parent}`}`],
    ['volumes', volumesOf(inspection)],
    ['size', `${formatBytes(inspection.sizeBytes)}, ${packing}`],
    ['dump', dump ? `frozen for ${formatUs(dump.frozenUs)}, ${dump.pagesWritten} pages written` : '(unknown)'],
  ];
}

function connectionsOf({ connections, images, sockets }: Inspection): string {
  const open = sockets.filter(({ protocol, state }) => protocol === 'tcp' && state === 'ESTABLISHED').length;
  if (connections === 'close' || images.tcpClosed) return 'left out (--tcp close)';
  return open === 0 ? 'none were open' : `${open} saved (--tcp established)`;
}

function volumesOf({ volumes }: Inspection): string {
  const saved = volumes.filter(({ content }) => content !== undefined);
  const bytes = saved.reduce((all, { content }) => all + (content?.bytes ?? 0), 0);
  const left = volumes.length - saved.length;
  return [
    saved.length === 0 ? 'none saved' : `${saved.length} saved, ${formatBytes(bytes)}`,
    ...(left === 0 ? [] : [`${left} left out`]),
  ].join(', ');
}

function treeRows(processes: readonly InspectedProcess[], indent = ''): string[][] {
  return processes.flatMap((process, index) => {
    const isLast = index === processes.length - 1;
    const isRoot = indent === '' && process.ppid === 0;
    const branch = isRoot ? '' : isLast ? '└─ ' : '├─ ';
    const { pid, state, memory, threads, credentials, children } = process;
    const row = [
      String(pid),
      `${indent}${branch}${commandLine(process)}${state === 'alive' ? '' : ` (${state})`}`,
      memory === undefined ? '-' : formatBytes(memory.bytes),
      String(threads.length),
      credentials === undefined ? '-' : String(credentials.uids.effective),
      String(process.files.length),
    ];
    return [row, ...treeRows(children, isRoot ? ' ' : `${indent}${isLast ? '   ' : '│  '}`)];
  });
}

function memoryTable(processes: readonly InspectedProcess[], { sharedMemory }: Inspection): Table {
  const rows = processes.flatMap(({ pid, memory }) =>
    (memory?.mappings ?? []).map(({ start, end, kind, protection, bytes, path, segment }) => [
      String(pid),
      `${start}-${end.slice(2)}`,
      protection,
      kind,
      formatBytes(Number(BigInt(end) - BigInt(start))),
      bytes === 0 ? '-' : formatBytes(bytes),
      path ?? (segment === undefined ? '' : `segment ${segment}`),
    ]),
  );
  const shared = sharedMemory.map(({ segment, bytes }) => [
    ...['-', '-', '-', 'shared', '-', formatBytes(bytes)],
    `segment ${segment}`,
  ]);
  return {
    title: 'Memory',
    rows: [['PID', 'ADDRESSES', 'RIGHTS', 'KIND', 'SIZE', 'SAVED', 'OF'], ...rows, ...shared],
  };
}

function filesTable(processes: readonly InspectedProcess[]): Table {
  const rows = processes.flatMap((process) =>
    filesOf(process).map(({ fd, kind, path, pipe, flags, offset, size, closeOnExec }) => [
      String(process.pid),
      String(fd),
      kind,
      path ?? (pipe === undefined ? '-' : `pipe ${pipe}`),
      offset === undefined ? '-' : String(offset),
      size === undefined ? '-' : String(size),
      [...flags, ...(closeOnExec ? ['FD_CLOEXEC'] : [])].join(' '),
    ]),
  );
  return {
    title: 'Open files, without sockets',
    rows: [['PID', 'FD', 'KIND', 'PATH', 'OFFSET', 'SIZE', 'FLAGS'], ...rows],
  };
}

function socketsTable(sockets: readonly InspectedSocket[]): Table {
  const paths = new Map(sockets.map(({ inode, path }) => [inode, path]));
  const rows = sockets.map((socket) => {
    const { protocol, family, type, state, source, peer, path, peerInode, queues, heldBy } = socket;
    const otherEnd = peerInode === undefined ? '-' : (paths.get(peerInode) ?? `inode ${peerInode}`);
    return [
      family === 'unix' || family === 'packet' ? `${family} ${type}` : `${protocol ?? type}${ipVersion(family)}`,
      state,
      source ? endpoint(source) : (path ?? '-'),
      peer ? endpoint(peer) : otherEnd,
      queues === undefined ? '-' : `${queues.receivedBytes} in, ${queues.sentBytes} out`,
      heldBy.map(({ pid, fd }) => `${pid}:${fd}`).join(' ') || '-',
    ];
  });
  return { title: 'Sockets', rows: [['KIND', 'STATE', 'LOCAL', 'PEER', 'QUEUED BYTES', 'PID:FD'], ...rows] };
}

function ipVersion(family: InspectedSocket['family']): string {
  return family === 'inet6' ? '6' : '';
}

/** "[::1]:6379". */
export function endpoint({ address, port }: Endpoint): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Which part of its filesystem a mount shows is left out: it is long, and of interest only to a tool. */
function mountsTable({ mounts }: Inspection): Table {
  const rows = mounts.map(({ mountPoint, filesystem, source, external, externalKey, options }) => [
    mountPoint,
    // CRIU's word for one that it need not know, as it does not mount it.
    filesystem === 'unsupported' ? '-' : filesystem,
    external || mountPoint === '/' ? 'runtime' : 'CRIU',
    external && externalKey !== mountPoint ? `${source} as ${externalKey}` : source,
    options,
  ]);
  return { title: 'Mounts', rows: [['MOUNT POINT', 'FILESYSTEM', 'MOUNTED BY', 'SOURCE', 'OPTIONS'], ...rows] };
}

function volumesTable({ volumes }: Inspection): Table {
  const rows = volumes.map(({ name, path, hostPath, content }) => [
    name || '-',
    path || '-',
    content === undefined ? '-' : String(content.files),
    content === undefined ? 'not in it' : formatBytes(content.bytes),
    hostPath || '-',
  ]);
  return { title: 'Volumes', rows: [['NAME', 'PATH', 'FILES', 'SIZE', 'ON THE NODE'], ...rows] };
}

function environmentTable(processes: readonly InspectedProcess[]): Table {
  const rows = processes.flatMap(({ pid, environment }) => {
    if (environment === undefined) return [];
    if ('missing' in environment) return [[String(pid), `(${environment.missing})`]];
    return environment.words.map((word) => [String(pid), word]);
  });
  return { title: 'Environment', rows: [['PID', 'VARIABLE'], ...rows] };
}

function statisticsRows({ statistics: { dump } }: Inspection): string[][] {
  if (dump === undefined) return [['CRIU has left no statistics']];
  return [
    ['freezing took', formatUs(dump.freezingUs)],
    ['frozen for', formatUs(dump.frozenUs)],
    ['dumping memory took', formatUs(dump.memoryDumpUs)],
    ['writing memory took', formatUs(dump.memoryWriteUs)],
    ['pages scanned', String(dump.pagesScanned)],
    ['pages written', String(dump.pagesWritten)],
    ['pages that an earlier dump has', String(dump.pagesSkippedParent)],
    ['shared pages written', String(dump.sharedPagesWritten ?? '(not told)')],
  ];
}

function flat(processes: readonly InspectedProcess[]): InspectedProcess[] {
  return processes.flatMap((process) => [process, ...flat(process.children)]);
}
