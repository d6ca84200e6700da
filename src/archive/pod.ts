import { createHash } from 'node:crypto';
import { bad, parseVersioned, type VERSION } from './layout.ts';

/*
 * A pod's archive holds one archive for each of its containers, as it would be on its own. The first member says that it
 * is a pod's (`pod.options`, which checkpointctl knows), the last one is a manifest of its own.
 */

export const POD_OPTIONS = 'pod.options';
export const POD_DUMP = 'pod.dump';
const CONTAINER = /^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)\.tar$/;

/** Name of a container's archive in that of its pod. */
export function memberOf(container: string): string {
  return `${container}.tar`;
}

/** Whose archive a member is; undefined for other members. */
export function containerOf(member: string): string | undefined {
  return CONTAINER.exec(member)?.[1];
}

/** `pod.options`: version 1 of checkpointctl's CheckpointedPodOptions. @param containers full names by short ones */
export function podOptions(containers: Readonly<Record<string, string>>): string {
  return `${JSON.stringify({ version: 1, containers, annotations: {} }, null, 2)}\n`;
}

/** `gantry.json` of a pod. */
export interface PodManifest {
  readonly version: typeof VERSION;
  /** ISO 8601. */
  readonly created: string;
  readonly pod: { readonly id: string; readonly name: string; readonly namespace: string };
  /** SHA-256 of the manifest of each container's archive, which has the sums of all that is in it. */
  readonly containers: Readonly<Record<string, string>>;
}

/** Compares the containers that were read with what the pod's manifest says. Errors: BAD_ARCHIVE, UNSUPPORTED. */
export function checkPod(text: string, where: string, manifests: ReadonlyMap<string, string>): PodManifest {
  const manifest = parseVersioned<PodManifest>(text, where);
  const { containers } = manifest;
  if (typeof containers !== 'object' || containers === null) throw bad(where, 'its manifest names no containers');
  for (const name of new Set([...Object.keys(containers), ...manifests.keys()])) {
    const own = manifests.get(name);
    if (own === undefined) throw bad(where, `it lacks ${memberOf(name)}`);
    if (createHash('sha256').update(own).digest('hex') !== containers[name])
      throw bad(where, `${memberOf(name)} is not what its manifest says`);
  }
  return manifest;
}
