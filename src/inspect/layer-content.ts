import { pipeline, Readable, type Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { bad } from '../archive/layout.ts';
import { readAt } from '../archive/seekable.ts';
import type { TarSource } from '../archive/tar.ts';
import { messageOf } from '../errors.ts';
import { packingOf } from './form.ts';
import type { Members } from './members.ts';

/** Headers of small files lie close together. */
const PIECE_BYTES = 64 * 1024;

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

/** The same for whoever wants only its headers: what is skipped is not read, unless it is compressed. Errors: BAD_ARCHIVE. */
export async function layerSource(members: Members, name: string, signal?: AbortSignal): Promise<TarSource> {
  if (packingOf(await members.read(name, 0, 4)) !== 'plain') return layerContent(members, name, signal);
  return readAt((position) => {
    signal?.throwIfAborted();
    return members.read(name, position, PIECE_BYTES);
  });
}

function unpackerFor(head: Buffer): Transform | undefined {
  const packing = packingOf(head);
  if (packing === 'gzip') return createGunzip();
  return packing === 'zstd' ? createZstdDecompress() : undefined;
}
