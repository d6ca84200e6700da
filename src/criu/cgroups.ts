import type { CgroupDirEntry } from '../gen/criu.ts';
import type { ImageSet } from './image-set.ts';

export interface Cgroups {
  /** Which cgroups processes are in: each has the number of a set. */
  readonly sets: readonly { readonly id: number; readonly members: readonly CgroupMember[] }[];
  /** Cgroups that CRIU would make again; none when it was told to leave them alone. */
  readonly hierarchies: readonly { readonly controllers: readonly string[]; readonly paths: readonly string[] }[];
}

export interface CgroupMember {
  /** "cpu", "name=systemd" …; empty for version 2. */
  readonly controller: string;
  readonly path: string;
}

export async function readCgroups(images: ImageSet): Promise<Cgroups> {
  const entry = await images.entry('CGROUP');
  if (entry === undefined) return { sets: [], hierarchies: [] };
  return {
    sets: entry.sets.map(({ id, ctls }) => ({
      id,
      members: ctls.map(({ name, path }) => ({ controller: name, path })),
    })),
    hierarchies: entry.controllers.map(({ cnames, dirs }) => ({ controllers: cnames, paths: pathsOf(dirs) })),
  };
}

/** Parents before what is in them. protobufjs has refused what is nested more than a hundred deep. */
function pathsOf(folders: readonly CgroupDirEntry[], above = ''): string[] {
  return folders.flatMap(({ dir_name, children }) => {
    const path = above === '' ? dir_name : `${above.replace(/\/$/, '')}/${dir_name}`;
    return [path, ...pathsOf(children, path)];
  });
}
