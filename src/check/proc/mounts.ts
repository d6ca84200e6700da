import { linesOf } from './read.ts';

/** A line of /proc/PID/mountinfo. */
export interface Mount {
  readonly id: number;
  /** "major:minor". */
  readonly device: string;
  readonly mountPoint: string;
  readonly fileSystem: string;
}

export async function mountsOf(pid: number): Promise<Mount[]> {
  return (await linesOf(`/proc/${pid}/mountinfo`)).map(parseMount);
}

/** Pure. */
export function parseMount(line: string): Mount {
  const [before = '', after = ''] = line.split(' - ');
  const [id = '0', , device = '', , mountPoint = ''] = before.split(' ');
  const unescaped = mountPoint.replace(/\\(\d{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
  return { id: Number(id), device, mountPoint: unescaped, fileSystem: after.split(' ')[0] ?? '' };
}

/** What a mount of a pod's configuration is, by where kubelet keeps it. */
export type VolumeKind = 'config' | 'empty-dir' | 'kubelet' | 'persistent' | 'host-path';

const CONFIG_PLUGINS = new Set(['configmap', 'secret', 'projected', 'downward-api']);

/** Pure: kubelet's folders are POD/volumes/PLUGIN/NAME, POD/volume-subpaths, POD/etc-hosts and POD/containers. */
export function volumeKind(hostPath: string): VolumeKind {
  const [, plugin] = /\/pods\/[^/]+\/volumes\/kubernetes\.io~([^/]+)\//.exec(hostPath) ?? [];
  if (plugin !== undefined) {
    if (CONFIG_PLUGINS.has(plugin)) return 'config';
    return plugin === 'empty-dir' ? 'empty-dir' : 'persistent';
  }
  if (/\/pods\/[^/]+\/(etc-hosts$|containers\/)/.test(hostPath)) return 'kubelet';
  return /\/pods\/[^/]+\/volume-subpaths\//.test(hostPath) ? 'persistent' : 'host-path';
}
