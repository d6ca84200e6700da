import { Socket, type SocketConstructorOpts } from 'node:net';
import { ChunkPool } from './chunks.ts';

/** How a socket reads into memory that is used again and again (`onread` of node:net). */
export interface PooledReads {
  readonly buffer: () => Uint8Array;
  readonly callback: (bytes: number, buffer: Uint8Array) => boolean;
}

/** @param onData is given views that are good until it returns, or for as long as they are held (chunks.ts) */
export function pooledReads(onData: (view: Buffer) => void): PooledReads {
  const pool = new ChunkPool();
  return {
    buffer: () => pool.next(),
    callback(bytes, buffer) {
      onData(Buffer.from(buffer.buffer, buffer.byteOffset, bytes));
      return true;
    },
  };
}

/**
 * A socket that a server has accepted (with `pauseOnConnect`), to be read in the same way. node:net lets clients choose that
 * and servers not, so the handle changes over to a socket that is made as a client's; with a Node that hides it, the
 * accepted socket itself is read as usual, which costs a buffer of 64 KiB for each read.
 */
export function withPooledReads(accepted: Socket, onData: (view: Buffer) => void): Socket {
  const carrier = accepted as unknown as { _handle?: object | null };
  const handle = carrier._handle;
  if (typeof handle !== 'object' || handle === null) {
    accepted.on('data', onData);
    accepted.resume();
    return accepted;
  }
  carrier._handle = null; // or both would close it
  const options = { handle, onread: pooledReads(onData), readable: true, writable: true };
  const socket = new Socket(options as SocketConstructorOpts);
  socket.resume(); // for 'end'; the data does not come that way
  socket.once('close', () => accepted.destroy()); // it is the one that the server counts
  return socket;
}
