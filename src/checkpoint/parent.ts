import { readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, relative } from 'node:path';
import type { Node } from '../agent/node.ts';
import { ancestorsOf, linkTo, MOST_PARENTS, sumOfManifest } from '../archive/chain.ts';
import { MANIFEST, type Parent } from '../archive/layout.ts';
import { GantryError } from '../errors.ts';
import type { CheckpointRequest } from '../gen/gantry/v1/agent.ts';
import { runtimeOf } from '../runtime/containerd.ts';
import { type CriuOptions, checkTracking } from '../runtime/criu.ts';
import { manifestIn } from './saved.ts';
import { trackedSince } from './tracked.ts';

type Wanted = Pick<CheckpointRequest, 'output' | 'parent' | 'trackMemory' | 'leaveRunning' | 'pause'>;

/** Errors: USAGE. */
export function checkWanted({ output, parent, trackMemory, leaveRunning, pause }: Wanted): void {
  if (parent === '' && !trackMemory) return;
  if (output === '') {
    throw new GantryError('USAGE', 'an archive or an image stands alone', {
      hint: '--parent and --track-memory are for folders: --output DIR',
    });
  }
  if (parent !== '' && !isAbsolute(parent)) throw new GantryError('USAGE', `${parent} must be an absolute path`);
  if (parent === '' && !leaveRunning && !pause) {
    throw new GantryError('USAGE', 'nothing is left to be tracked of a container that is ended', {
      hint: 'give --leave-running or --pause, too',
    });
  }
}

/** What of a dump depends on whether its container's memory is tracked. */
export interface Tracking {
  readonly options: Pick<CriuOptions, 'parent' | 'tracksMemory'>;
  /** For the manifest. */
  readonly parent?: Parent;
}

/**
 * What a dump is told that is to have only the pages written since another one, or that others are to follow; nothing for one
 * that stands alone. Nothing is changed yet.
 *
 * Errors: UNSUPPORTED, for a kernel or a runtime that cannot; NOT_FOUND; BAD_ARCHIVE, for a parent that is not complete;
 * CONFLICT, for one since which the container's memory was not tracked; USAGE.
 */
export async function trackingOf(node: Node, container: string, request: Wanted): Promise<Tracking> {
  if (request.parent === '' && !request.trackMemory) return { options: {} };
  await checkTracking(container, await runtimeOf(container));
  if (request.parent === '') return { options: { tracksMemory: true } };
  const parent = await parentFor(request);
  const since = await trackedSince(node, container);
  if (since !== parent.sha256) {
    throw new GantryError(
      'CONFLICT',
      `what ${container} has written since ${request.parent} is not known: ` +
        (since === undefined
          ? 'nothing has tracked its memory since then'
          : 'a later checkpoint has begun to track its memory anew'),
      { hint: 'take the last checkpoint of this very container for the parent, or begin anew with --track-memory' },
    );
  }
  return { options: { tracksMemory: true, parent: linkTo(parent) }, parent };
}

/** Errors: NOT_FOUND, BAD_ARCHIVE, UNSUPPORTED, USAGE. */
export async function parentFor({ output, parent }: Pick<Wanted, 'output' | 'parent'>): Promise<Parent> {
  const above = dirname(output);
  const manifest = await manifestIn(parent);
  const before = await ancestorsOf(parent, manifest);
  if (before.length + 1 >= MOST_PARENTS) {
    throw new GantryError('USAGE', `${parent} has ${before.length} parents, more than ${MOST_PARENTS} cannot be`, {
      hint: 'begin anew with --track-memory',
    });
  }
  const [here, there] = await Promise.all([realpath(above), realpath(parent)]).catch((error: unknown) => {
    throw new GantryError('USAGE', `cannot make ${output}`, { cause: error, hint: 'the folder above it must exist' });
  });
  if ((await stat(here)).dev !== (await stat(there)).dev) {
    throw new GantryError('USAGE', `${output} would be on another file system than ${parent}`, {
      hint: 'a folder and its parent are on the same one, so that they can be found from each other',
    });
  }
  const text = await readFile(join(there, MANIFEST), 'utf8');
  return { folder: relative(join(here, basename(output)), there), sha256: sumOfManifest(text) };
}
