import type { MntEntry } from '../gen/criu.ts';
import type { ImageSet } from './image-set.ts';

export interface Mount {
  /** Of the mount namespace. */
  readonly namespace: number;
  readonly id: number;
  readonly parent: number;
  /** Which part of the filesystem is mounted. */
  readonly root: string;
  readonly mountPoint: string;
  /** "overlay", "tmpfs" …, as the kernel calls it. */
  readonly filesystem: string;
  readonly source: string;
  /** Of the filesystem; those of the mount are bits of `flags`. */
  readonly options: string;
  /** MS_* of mount(2). */
  readonly flags: number;
  /** It is not in the checkpoint: whoever restores it has to give it. `externalKey` is its name for that. */
  readonly external: boolean;
  readonly externalKey?: string;
}

/** Of every mount namespace that was dumped. */
export async function readMounts(images: ImageSet): Promise<Mount[]> {
  const mounts: Mount[] = [];
  for (const namespace of images.idsOf('MNTS')) {
    for (const entry of await images.entries('MNTS', namespace)) mounts.push(mountOf(entry, Number(namespace)));
  }
  return mounts;
}

function mountOf(entry: MntEntry, namespace: number): Mount {
  const { mnt_id, parent_mnt_id, root, mountpoint, source, options, flags, ext_key, ext_mount } = entry;
  return {
    namespace,
    id: mnt_id,
    parent: parent_mnt_id,
    root,
    mountPoint: mountpoint,
    filesystem: filesystemOf(entry),
    source,
    options,
    flags,
    external: ext_key !== undefined || ext_mount === true,
    ...(ext_key === undefined ? {} : { externalKey: ext_key }),
  };
}

/** Of enum fstype in CRIU's images/mnt.proto, as the kernel calls them; 20 to 22 are not used. */
const FILESYSTEMS = [
  ...['unsupported', 'proc', 'sysfs', 'devtmpfs', 'binfmt_misc', 'tmpfs', 'devpts', 'simfs', 'pstore', 'securityfs'],
  ...['fusectl', 'debugfs', 'cgroup', 'aufs', 'mqueue', 'fuse', 'auto', 'overlay', 'autofs', 'tracefs', '', '', ''],
  'cgroup2',
];

/** CRIU keeps a number of the filesystems it knows, and the name of others. */
function filesystemOf({ fstype, fsname }: MntEntry): string {
  return fsname || FILESYSTEMS[fstype] || String(fstype);
}
