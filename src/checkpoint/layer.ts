import { layerOfUpper, upperOfLayer } from '../archive/layer.ts';
import { contentOf } from '../archive/reader.ts';
import { outputOf, runOn } from '../runtime/program.ts';

const LIMIT_MS = 600_000;
/** Everything that makes a file what it is. */
const AS_IT_IS = ['--xattrs', '--xattrs-include=*', '--acls', '--numeric-owner'];

/** A container's writable layer, as a layer of OCI. @param upper the overlay's upper folder */
export function packLayer(upper: string, signal: AbortSignal): AsyncIterable<Uint8Array> {
  const args = ['-C', upper, ...AS_IT_IS, '--sparse', '--format=posix', '-cf', '-', '.'];
  return layerOfUpper(outputOf('tar', args, { signal, timeoutMs: LIMIT_MS }));
}

/** A folder of the node's, as it is. */
export function packFolder(folder: string, signal: AbortSignal): AsyncIterable<Uint8Array> {
  return outputOf('tar', ['-C', folder, ...AS_IT_IS, '--sparse', '--format=posix', '-cf', '-', '.'], {
    signal,
    timeoutMs: LIMIT_MS,
  });
}

/** Puts a layer, compressed or not, into the upper folder of a container that was not started yet. Errors: BAD_ARCHIVE. */
export async function unpackLayer(
  file: string,
  upper: string,
  options: { readonly allowsSetuid: boolean; readonly deleted?: readonly string[]; readonly isPlain?: boolean },
): Promise<void> {
  await runOn(upperOfLayer(contentOf(file), file, options), 'tar', ['-C', upper, ...AS_IT_IS, '-xpf', '-'], {
    timeoutMs: LIMIT_MS,
  });
}
