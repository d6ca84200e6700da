import { writeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { drop, hold } from './chunks.ts';
import { FRAME_HEAD_BYTES, FrameType, write32, writeHead } from './frames.ts';

const SLAB_BYTES = 32 * 1024;
// Below this a copy is cheaper than one more entry in a writev.
const COPY_BYTES = 2048;
// What one turn may gather before it is written anyway: a large answer flows on while the rest of it is being read.
const BATCH_BYTES = 64 * 1024;
const LATER_MS = 5;
const LATER_BYTES = 1024;

// Writes of the outputs that have something to say, while a socket is being read; made when its reader has done.
let gathering: (() => void)[] | undefined;

/**
 * Runs `read`, and then writes what it has given to any output, at once: going round the event loop first would be a
 * fifth of what the relay adds to a call.
 */
export function writeAfter(read: () => void): void {
  if (gathering !== undefined) {
    read();
    return;
  }
  const writes: (() => void)[] = [];
  gathering = writes;
  try {
    read();
  } finally {
    gathering = undefined;
    for (const write of writes) write();
  }
}

/**
 * What a connection has to say, gathered while a chunk is read, or over one turn of the event loop, and written then:
 * system calls are what a relay costs. Small frames are laid side by side in a slab, large payloads are written from
 * where they arrived.
 */
export class Output {
  readonly #socket: Duplex;
  readonly #onUnblocked: () => void;
  // A kernel socket has taken the bytes when nothing is left to write; any other may still refer to them.
  readonly #copies: boolean;
  #slab = Buffer.allocUnsafeSlow(SLAB_BYTES);
  #start = 0; // of what is not in #pieces yet
  #at = 0;
  #pieces: Buffer[] = [];
  #pieceBytes = 0;
  #held: Buffer[] = []; // views of others' memory that the kernel may not have taken yet
  #scheduled = false;
  #later: NodeJS.Timeout | undefined;
  #blocked = false;
  #closed = false;
  readonly #flush = (): void => {
    this.#scheduled = false;
    this.flush();
  };

  /** @param onUnblocked is called when the socket has begun to take bytes again after `blocked` was true */
  constructor(socket: Duplex, onUnblocked: () => void) {
    this.#socket = socket;
    this.#onUnblocked = onUnblocked;
    this.#copies = socket instanceof Socket;
    socket.on('drain', () => {
      if (!this.#blocked || this.#closed) return;
      this.#blocked = false;
      if (this.#copies && this.#pieces.length === 0 && socket.writableLength === 0) this.#drop();
      this.#onUnblocked();
    });
  }

  /** The socket takes nothing at present: DATA has to wait, control frames need not. */
  get blocked(): boolean {
    return this.#blocked;
  }

  /** Bytes that the kernel has not taken. */
  get bytes(): number {
    return this.#pieceBytes + this.#at - this.#start + this.#socket.writableLength;
  }

  /** Room for `bytes` in one piece; the caller writes them into `slab` from the returned offset on, at once. */
  reserve(bytes: number): number {
    this.#schedule();
    return this.#place(bytes);
  }

  #place(bytes: number): number {
    if (this.#at + bytes > this.#slab.length) {
      this.#closePiece();
      this.#slab = Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, bytes));
      this.#start = 0;
      this.#at = 0;
    }
    const at = this.#at;
    this.#at += bytes;
    return at;
  }

  get slab(): Buffer {
    return this.#slab;
  }

  write(bytes: Buffer): void {
    const at = this.reserve(bytes.length);
    bytes.copy(this.#slab, at);
  }

  /** A few bytes that nobody waits for: they go with what is written next, or by themselves after some milliseconds. */
  writeLater(bytes: Buffer): void {
    const at = this.#place(bytes.length); // first: it may be another slab afterwards
    bytes.copy(this.#slab, at);
    if (this.#at - this.#start > LATER_BYTES) this.#schedule();
    this.#later ??= setTimeout(() => {
      this.#later = undefined;
      this.flush();
    }, LATER_MS).unref();
  }

  /** A frame whose payload is one 32-bit number. */
  number32(type: number, streamId: number, value: number): void {
    const at = this.reserve(FRAME_HEAD_BYTES + 4);
    writeHead(this.#slab, at, 4, type, 0, streamId);
    write32(this.#slab, at + FRAME_HEAD_BYTES, value);
  }

  /**
   * A DATA frame. A large view is not copied and must not change any more; with `headroom` its frame head is written into
   * the nine bytes before it, so that frames that came one behind the other leave as one piece.
   */
  data(streamId: number, view: Buffer, flags: number, headroom: boolean): void {
    const length = view.length;
    if (length < COPY_BYTES) {
      const at = this.reserve(FRAME_HEAD_BYTES + length);
      writeHead(this.#slab, at, length, FrameType.DATA, flags, streamId);
      if (length > 0) this.#slab.set(view, at + FRAME_HEAD_BYTES);
    } else if (headroom) {
      this.#closePiece();
      this.#append(Buffer.from(view.buffer, view.byteOffset - FRAME_HEAD_BYTES, length + FRAME_HEAD_BYTES), (piece) =>
        writeHead(piece, 0, length, FrameType.DATA, flags, streamId),
      );
    } else {
      const at = this.reserve(FRAME_HEAD_BYTES);
      writeHead(this.#slab, at, length, FrameType.DATA, flags, streamId);
      this.#closePiece();
      this.#pieces.push(view);
      this.#pieceBytes += length;
      this.#hold(view);
    }
    this.#schedule();
    if (this.#pieceBytes >= BATCH_BYTES) this.flush();
  }

  /** Writes what there is; otherwise that happens at the end of the turn. */
  flush(): void {
    if (this.#closed) return;
    const pieces = this.#pieces;
    const socket = this.#socket;
    let taken = true;
    if (pieces.length === 0) {
      if (this.#at === this.#start) return;
      const written = this.#writeNow();
      if (written < this.#at - this.#start) taken = socket.write(this.#slab.subarray(this.#start + written, this.#at));
      this.#start = this.#at;
    } else {
      this.#closePiece();
      this.#pieces = [];
      this.#pieceBytes = 0;
      if (pieces.length > 1) socket.cork();
      for (const piece of pieces) taken = socket.write(piece);
      if (pieces.length > 1) {
        socket.uncork();
        // While corked everything counts as not taken.
        taken = socket.writableLength < socket.writableHighWaterMark;
      }
    }
    if (this.#copies && socket.writableLength === 0) {
      this.#start = 0;
      this.#at = 0;
      this.#drop();
    }
    if (!taken && socket.writableNeedDrain) this.#blocked = true;
  }

  /** How many bytes of the slab the kernel has taken at once: the stream's way there is a tenth of what a call costs. */
  #writeNow(): number {
    const fd = (this.#socket as { _handle?: { fd?: number } | null })._handle?.fd ?? -1;
    if (fd < 0 || this.#socket.writableLength > 0) return 0;
    try {
      return writeSync(fd, this.#slab, this.#start, this.#at - this.#start);
    } catch {
      return 0; // the stream is told the same, and knows what to do
    }
  }

  /** Nothing more is written. What is still held is left to the garbage collector: a write may be reading it. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#later);
    this.#pieces = [];
    this.#held = [];
  }

  #append(piece: Buffer, writeHeadTo: (piece: Buffer) => void): void {
    writeHeadTo(piece);
    const last = this.#pieces.at(-1);
    if (last !== undefined && last.buffer === piece.buffer && last.byteOffset + last.length === piece.byteOffset) {
      this.#pieces[this.#pieces.length - 1] = Buffer.from(piece.buffer, last.byteOffset, last.length + piece.length);
    } else {
      this.#pieces.push(piece);
      this.#hold(piece);
    }
    this.#pieceBytes += piece.length;
  }

  #hold(view: Buffer): void {
    hold(view);
    this.#held.push(view);
  }

  #drop(): void {
    if (this.#held.length === 0) return;
    for (const view of this.#held) drop(view);
    this.#held = [];
  }

  #closePiece(): void {
    if (this.#at === this.#start) return;
    this.#pieces.push(this.#slab.subarray(this.#start, this.#at));
    this.#pieceBytes += this.#at - this.#start;
    this.#start = this.#at;
  }

  #schedule(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    if (gathering !== undefined) gathering.push(this.#flush);
    else setImmediate(this.#flush);
  }
}
