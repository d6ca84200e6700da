import type { Changes, Difference } from './diff.ts';
import type { LayerDifference, LayerFile } from './diff-layer.ts';
import type { PageCounts } from './diff-memory.ts';
import type { Table } from './text.ts';
import { formatBytes, printable } from './units.ts';

/** What differs as tables for people: "+" is only in the second, "-" only in the first, "~" in both and not the same. */
export function differenceTables(difference: Difference): Table[] {
  const { processes, files, sockets, memory, sharedMemory, layer, volumes } = difference;
  const pages = memory.flatMap(({ pid, comm, pageSize, mappings, ...total }) => [
    pageRow([String(pid), comm, 'all'], total, pageSize),
    ...mappings.map(({ start, kind, protection, path, ...counts }) =>
      pageRow([String(pid), '', [start, protection, path ?? kind].join(' ')], counts, pageSize),
    ),
  ]);
  const shared = sharedMemory.map(({ start, ...counts }) =>
    pageRow(['-', '', start], counts, memory[0]?.pageSize ?? 4096),
  );
  const sections: Section[] = [
    ['Processes', ['', 'PID', 'NAME'], marked(processes, ({ pid, comm }) => [String(pid), comm])],
    [
      'Open files',
      ['', 'PID', 'NAME', 'FD', 'KIND', 'PATH'],
      marked(files, ({ pid, comm, fd, kind, path }) => [String(pid), comm, String(fd), kind, path]),
    ],
    [
      'Sockets',
      ['', 'KIND', 'STATE', 'LOCAL', 'PEER'],
      marked(sockets, ({ kind, state, local, peer }) => [kind, state, local || '-', peer || '-']),
    ],
    [
      'Memory, in pages',
      ['PID', 'NAME', 'MAPPING', 'CHANGED', 'ADDED', 'REMOVED', 'SAME', 'UNKNOWN', 'CHANGED AND ADDED'],
      [...pages, ...shared],
    ],
    filesSection('Files of the writable layer', layer),
    ...Object.entries(volumes).map(([where, files]) => filesSection(`Files of ${where}`, files)),
  ];
  return sections.map(([title, heading, rows]) => ({
    title: rows.length === 0 ? `${title}: no difference` : title,
    rows: rows.length === 0 ? [] : [heading, ...rows.map((row) => row.map(printable))],
  }));
}

type Section = [title: string, heading: string[], rows: string[][]];

function filesSection(title: string, files: LayerDifference): Section {
  const rowOf = ({ path, type, sizeBytes }: LayerFile) => [path, type, formatBytes(sizeBytes)];
  return [
    title,
    ['', 'PATH', 'TYPE', 'SIZE', 'WHAT'],
    [
      ...marked(files, (file) => [...rowOf(file), '']),
      ...files.changed.map((file) => ['~', ...rowOf(file), file.what.join(', ')]),
    ],
  ];
}

function marked<T>({ added, removed }: Changes<T>, rowOf: (one: T) => string[]): string[][] {
  return [...added.map((one) => ['+', ...rowOf(one)]), ...removed.map((one) => ['-', ...rowOf(one)])];
}

function pageRow(names: readonly string[], counts: PageCounts, pageSize: number): string[] {
  const { added, removed, changed, same, unknown } = counts;
  const numbers = [changed, added, removed, same, unknown].map(String);
  return [...names, ...numbers, formatBytes((changed + added) * pageSize)];
}
