import { createHash } from 'node:crypto';
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { errnoOf, messageOf } from '../errors.ts';
import type { PumpData, PumpedFile, PumpResult } from './pump.ts';
import { alignedHeaderLength, padded } from './tar.ts';

/*
 * A thread that does nothing else than to read FIFOs, one after the other, and to write what comes out of them into a
 * file: it may block, and its memory is one buffer. When the file cannot be written it reads on, so that who writes into
 * the FIFO gets to its end: CRIU holds a frozen container meanwhile.
 */

const PIECE_BYTES = 1024 * 1024;

const { paths, fd, state } = workerData as PumpData;
const files: PumpedFile[] = [];
const buffer = Buffer.allocUnsafe(PIECE_BYTES);
let { at } = workerData as PumpData;
let error: PumpResult['error'];

for (const [index, path] of paths.entries()) {
  Atomics.store(state, 1, index);
  if (Atomics.load(state, 0) === 1) break;
  const fifo = openSync(path, constants.O_RDONLY);
  const headerLength = alignedHeaderLength(at);
  const hash = createHash('sha256');
  let size = 0;
  for (;;) {
    const count = readSync(fifo, buffer);
    if (count === 0) break;
    const piece = buffer.subarray(0, count);
    hash.update(piece);
    if (error === undefined) error = tryToWrite(piece, at + headerLength + size);
    size += count;
  }
  closeSync(fifo);
  if (size === 0 && Atomics.load(state, 0) === 1) break;
  files.push({ name: basename(path), size, sha256: hash.digest('hex'), at, headerLength });
  at += headerLength + padded(size);
}
parentPort?.postMessage({ files, at, ...(error !== undefined && { error }) } satisfies PumpResult);

function tryToWrite(piece: Buffer, position: number): PumpResult['error'] {
  try {
    for (let done = 0; done < piece.length; ) {
      done += writeSync(fd, piece, done, piece.length - done, position + done);
    }
    return undefined;
  } catch (failure) {
    return { code: errnoOf(failure) ?? '', message: messageOf(failure) };
  }
}
