import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exists } from '../durable.ts';
import { GantryError, messageOf } from '../errors.ts';

/** What a checkpoint folder holds; the first two names are those that checkpointctl, Podman and CRI-O share. */
export const NAMES = { images: 'checkpoint', layer: 'rootfs-diff.tar' } as const;
export const MANIFEST = 'gantry.json';

export interface Manifest {
  version: 1;
  /** ISO 8601. */
  created: string;
  node: string;
  container: { id: string; name: string };
  image: { name: string; id: string };
  tcpEstablished: boolean;
  processes: number;
  /** runtime.v1.ContainerConfig, encoded, in base64. */
  config: string;
}

/** Errors: NOT_FOUND, when the folder is no checkpoint; UNSUPPORTED, for one of a version not known here. */
export async function readManifest(folder: string): Promise<Manifest> {
  const text = await readFile(join(folder, MANIFEST), 'utf8').catch((error: unknown) => {
    throw new GantryError('NOT_FOUND', `${folder} holds no checkpoint (no ${MANIFEST})`, { cause: error });
  });
  const manifest = parse(text, folder);
  if (!(await exists(join(folder, NAMES.images)))) {
    throw new GantryError('NOT_FOUND', `${folder} holds no checkpoint (no folder ${NAMES.images})`);
  }
  if (manifest.version !== 1) {
    throw new GantryError('UNSUPPORTED', `${folder} is a checkpoint of version ${manifest.version}; 1 is known here`);
  }
  return manifest;
}

function parse(text: string, folder: string): Manifest {
  try {
    return JSON.parse(text) as Manifest;
  } catch (error) {
    throw new GantryError('NOT_FOUND', `${folder} holds no checkpoint (${MANIFEST}: ${messageOf(error)})`, {
      cause: error,
    });
  }
}
