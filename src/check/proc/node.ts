import { statfs } from 'node:fs/promises';
import { release } from 'node:os';
import type { Node } from '../../agent/node.ts';
import { thisHost } from '../../checkpoint/fits.ts';
import { exists } from '../../durable.ts';
import { criuVersion } from '../../runtime/criu.ts';
import { hasSoftDirty } from './page-map.ts';
import { linesOf } from './read.ts';

/** What a node has that a dump or a restore needs. One agent tells it to another as JSON. */
export interface NodeFacts {
  readonly node: string;
  readonly kernel: string;
  readonly architecture: string;
  /** "" when there is none. */
  readonly criu: string;
  /** Of the processor, as /proc/cpuinfo has them. */
  readonly cpuFlags: readonly string[];
  readonly lsm: readonly string[];
  readonly hasCheckpointRestore: boolean;
  readonly hasUserfaultfd: boolean;
  readonly hasSoftDirty: boolean;
  /** Lines of configuration that CRIU reads whoever starts it, by file. */
  readonly criuConfiguration: Readonly<Record<string, readonly string[]>>;
  /** Where images of memory are kept. */
  readonly freeBytes: number;
  /** Of the images that were asked for, those that are not here. */
  readonly missingImages: readonly string[];
}

/** criu(8), "Configuration files"; the last is what runc reads unless it is told of another one. */
const CRIU_FILES = ['/etc/criu/default.conf', '/root/.criu/default.conf', '/etc/criu/runc.conf'];

/** @param images that are looked for, by their IDs */
export async function nodeFacts(
  { config, cri }: Pick<Node, 'config' | 'cri'>,
  images: readonly string[],
): Promise<NodeFacts> {
  const [host, criu, files, free, found, hasCheckpointRestore, hasUserfaultfd] = await Promise.all([
    thisHost(),
    criuVersion().catch(() => ''),
    Promise.all(CRIU_FILES.map(async (file) => [file, (await linesOf(file)).filter(isSetting)] as const)),
    statfs(config.imageDir).catch(() => statfs(config.runDir)),
    Promise.all(images.map((image) => cri.imageStatus(image))),
    exists('/proc/sys/kernel/ns_last_pid'),
    exists('/proc/sys/vm/unprivileged_userfaultfd'),
  ]);
  return {
    node: config.node,
    kernel: release(),
    architecture: host.architecture,
    criu,
    cpuFlags: [...host.flags],
    lsm: host.lsm.filter(Boolean),
    hasCheckpointRestore,
    hasUserfaultfd,
    hasSoftDirty: hasSoftDirty(),
    criuConfiguration: Object.fromEntries(files.filter(([, lines]) => lines.length > 0)),
    freeBytes: free.bavail * free.bsize,
    missingImages: images.filter((_, at) => found[at]?.image === undefined),
  };
}

function isSetting(line: string): boolean {
  return line.trim() !== '' && !line.trim().startsWith('#');
}
