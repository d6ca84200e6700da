import type { ContainerFacts, Volume } from '../facts.ts';
import { type Finding, some } from '../finding.ts';
import type { Descriptor } from '../proc/descriptors.ts';
import { type Lock, parseLock } from '../proc/locks.ts';
import type { VolumeKind } from '../proc/mounts.ts';

type Facts = Pick<ContainerFacts, 'descriptors' | 'processes' | 'volumes' | 'mounts' | 'locks'>;

/** What a container's files share with others, and what they lie on. */
export function fileFindings(facts: Facts): Finding[] {
  return [...locks(facts), ...configFiles(facts), ...volumes(facts)];
}

function locks({ descriptors, processes, locks: all }: Facts): Finding[] {
  const own = new Set(processes.map(({ pid }) => pid));
  const held = descriptors.flatMap(({ link, file }) =>
    (file?.locks ?? []).flatMap((line) => ({ link, lock: parseLock(line) })),
  );
  const paths = new Map(held.flatMap(({ link, lock }) => (lock === undefined ? [] : [[lock.file, link] as const])));
  // A lock of an open file description has no owner: it is somebody else's when no descriptor of the container holds it.
  const count = (file: string, isOwn: (lock: Lock) => boolean) =>
    all.filter((lock) => lock.file === file && isOwn(lock)).length;
  const shared = [...paths].filter(([file]) => count(file, ({ pid }) => pid > 0 && !own.has(pid)) > 0);
  const foreign = (file: string) =>
    all
      .filter((lock) => lock.file === file && lock.pid > 0 && !own.has(lock.pid))
      .map(({ pid, waits }) => `PID ${pid}${waits ? ' (waits)' : ''}`);
  return [
    ...(shared.length === 0
      ? []
      : [
          {
            id: 'shared-lock',
            severity: 'warm' as const,
            seen: some(shared.map(([file, path]) => `${path}: also ${some(foreign(file))}`)),
            why: 'after the move the lock is taken on the other node’s file, and those who share it here are not shut out by it any more',
            todo: 'coordinate over the network, or move all who use the file',
          },
        ]),
    ...(paths.size === 0 || shared.length === paths.size
      ? []
      : [
          {
            id: 'file-lock',
            severity: 'hot' as const,
            seen: some(
              [...paths].filter(([file]) => !shared.some(([other]) => other === file)).map(([, path]) => path),
            ),
            why: 'locks of the container’s own are taken again after the restore',
            todo: 'nothing',
          },
        ]),
  ];
}

/** kubelet gives such volumes folders with a time in their name, which are others on every node. */
function configFiles({ descriptors, volumes: all, mounts }: Facts): Finding[] {
  const points = all.filter(({ kind }) => kind === 'config').map(({ containerPath }) => containerPath);
  const found = descriptors.filter(
    (one) =>
      /\/\.\.\d{4}_/.test(one.link) ||
      points.includes(mountPointOf(one, mounts)) ||
      points.some((point) => one.link.startsWith(`${point}/`)),
  );
  if (found.length === 0) return [];
  return [
    {
      id: 'config-file-open',
      severity: 'cold',
      seen: some(found.map(({ pid, fd, link }) => `${link} (PID ${pid}, fd ${fd})`)),
      why: 'kubelet makes the content of a configMap, secret or projected volume anew on each node, in a folder with another name: the file that is open is not there',
      todo: 'let the application close the file after it has read it',
    },
  ];
}

function mountPointOf({ file }: Descriptor, mounts: Facts['mounts']): string {
  return mounts.find(({ id }) => id === file?.mountId)?.mountPoint ?? '';
}

const VOLUMES: Readonly<Record<Exclude<VolumeKind, 'kubelet'>, Pick<Finding, 'id' | 'severity' | 'why' | 'todo'>>> = {
  config: {
    id: 'config-volume',
    severity: 'hot',
    why: 'the other node’s kubelet makes it from the API, with today’s content',
    todo: 'nothing; a program that has read it knows the old content',
  },
  'empty-dir': {
    id: 'empty-dir',
    severity: 'hot',
    why: 'its content has to move with the pod',
    todo: 'nothing; large ones take their time (see the writable layer’s figures)',
  },
  persistent: {
    id: 'persistent-volume',
    severity: 'hot',
    why: 'the other node has to have the very same volume; one that can be attached to one node at a time cannot be on both',
    todo: 'look at its access modes: ReadWriteMany is no problem',
  },
  'host-path': {
    id: 'host-path',
    severity: 'warm',
    why: 'it is a folder of this node: the other one has its own, with other content or none',
    todo: 'use a volume that moves, or make sure that the folder is the same everywhere',
  },
};

function volumes({ volumes: all, descriptors, mounts }: Facts): Finding[] {
  const kinds = Object.keys(VOLUMES) as (keyof typeof VOLUMES)[];
  return kinds.flatMap((kind) => {
    const found = all.filter((volume) => volume.kind === kind);
    if (found.length === 0) return [];
    const about = {
      ...VOLUMES[kind],
      seen: some(found.map(({ hostPath, containerPath }) => `${hostPath} at ${containerPath}`)),
    };
    const open = kind === 'host-path' ? openOn(found, descriptors, mounts) : [];
    if (open.length === 0) return [about];
    const seen = `${about.seen}; open there: ${some(open.map(({ pid, fd, link }) => `${link} (PID ${pid}, fd ${fd})`))}`;
    return [
      {
        ...about,
        severity: 'cold' as const,
        seen,
        why: `${about.why}; a file that is open must be there, with the same size`,
      },
    ];
  });
}

function openOn(found: readonly Volume[], descriptors: Facts['descriptors'], mounts: Facts['mounts']): Descriptor[] {
  const points = new Set(found.map(({ containerPath }) => containerPath));
  return descriptors.filter((one) => points.has(mountPointOf(one, mounts)) && one.file?.kind === 'file');
}
