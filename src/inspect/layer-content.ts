import { pipeline, Readable, type Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { bad } from '../archive/layout.ts';
import { messageOf } from '../errors.ts';
import { packingOf } from './form.ts';
import type { Members } from './members.ts';

/**
 * A layer as the tar archive that it is: containerd puts it into a checkpoint compressed, gantry, CRI-O and Podman as it is.
 * Errors: BAD_ARCHIVE.
 */
export async function* layerContent(members: Members, name: string, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  const content = members.content(name, signal);
  const unpacker = unpackerFor(await members.read(name, 0, 4));
  if (unpacker === undefined) {
    yield* content;
    return;
  }
  // It destroys the one with the error of the other.
  pipeline(Readable.from(content, { objectMode: false }), unpacker, () => undefined);
  try {
    yield* unpacker;
  } catch (error) {
    signal?.throwIfAborted();
    throw bad(members.where, `its ${name} cannot be unpacked: ${messageOf(error)}`);
  } finally {
    unpacker.destroy();
  }
}

function unpackerFor(head: Buffer): Transform | undefined {
  const packing = packingOf(head);
  if (packing === 'gzip') return createGunzip();
  return packing === 'zstd' ? createZstdDecompress() : undefined;
}
