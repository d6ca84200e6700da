import { SHM, VOLUMES } from '../archive/layout.ts';
import { TarReader } from '../archive/tar.ts';
import { word } from './facts.ts';
import { layerSource } from './layer-content.ts';
import type { Checkpoint } from './open.ts';

/** A volume that the container mounts, or /dev/shm. */
export interface InspectedVolume {
  /** "" of one that is not in the checkpoint, and has to be given again. */
  readonly name: string;
  /** In the container; "" when the checkpoint does not tell. */
  readonly path: string;
  /** On the node; "" as above. */
  readonly hostPath: string;
  /** Absent when its content is not here: that of a pod's volume is in one of its containers. */
  readonly content?: VolumeContent;
}

export interface VolumeContent {
  /** Of whatever kind, without folders. */
  readonly files: number;
  readonly bytes: number;
}

const SHM_PATH = '/dev/shm';

/** Reads the headers of what was saved of them. Errors: BAD_ARCHIVE. */
export async function readVolumes(checkpoint: Checkpoint, signal?: AbortSignal): Promise<InspectedVolume[]> {
  const { members, manifest } = checkpoint;
  const told = manifest?.volumes ?? [];
  const saved = [...members.sizes.keys()].flatMap((name) => nameOf(name) ?? []);
  const volumes: InspectedVolume[] = [];
  for (const one of told) {
    const name = word(one?.name);
    const content = saved.includes(name) ? await contentOf(checkpoint, memberOf(name), signal) : undefined;
    volumes.push({ name, path: word(one?.path), hostPath: word(one?.hostPath), ...(content && { content }) });
  }
  for (const name of saved.filter((known) => !volumes.some((one) => one.name === known)))
    volumes.push({ name, path: '', hostPath: '', content: await contentOf(checkpoint, memberOf(name), signal) });
  if (members.has(SHM)) {
    const content = await contentOf(checkpoint, SHM, signal);
    volumes.push({ name: 'shm', path: SHM_PATH, hostPath: '', content });
  }
  return volumes;
}

/** Of the volume that a member is the content of. */
function nameOf(member: string): string | undefined {
  return member.startsWith(`${VOLUMES}/`) ? member.slice(VOLUMES.length + 1, -'.tar'.length) : undefined;
}

function memberOf(volume: string): string {
  return `${VOLUMES}/${volume}.tar`;
}

async function contentOf(
  { members }: Checkpoint,
  member: string,
  signal: AbortSignal | undefined,
): Promise<VolumeContent> {
  const tar = new TarReader(await layerSource(members, member, signal), `${member} of ${members.where}`);
  let files = 0;
  let bytes = 0;
  for (let found = await tar.next(); found !== undefined; found = await tar.next()) {
    if (found.type === 'folder') continue;
    files++;
    bytes += Number(found.pax.get('GNU.sparse.realsize')?.toString() ?? found.size);
  }
  return { files, bytes };
}
