import { ChunkPool, drop, hold } from './chunks.ts';

// A view keeps the whole chunk busy that it was cut from. What is small is therefore copied together: otherwise a peer
// could make every byte in a queue cost 64 KiB (or a hundred bytes of bookkeeping).
const SMALL_BYTES = 8 * 1024;
const blocks = new ChunkPool(16 * 1024);

/** Bytes that wait for a window. Its memory is at most a small multiple of the bytes in it. */
export class ViewQueue {
  #views: Buffer[] = [];
  #headroom: boolean[] = [];
  #first = 0;
  #tail: Buffer | undefined; // the last view's block, while there is room behind it
  #tailStart = 0;
  #tailEnd = 0;
  bytes = 0;

  push(view: Buffer, headroom = false): void {
    const length = view.length;
    if (length === 0) return;
    this.bytes += length;
    if (length >= SMALL_BYTES) {
      hold(view);
      this.#tail = undefined;
      this.#views.push(view);
      this.#headroom.push(headroom);
      return;
    }
    if (this.#tail === undefined || this.#tailEnd + length > this.#tail.length) {
      this.#tail = blocks.take();
      this.#tailStart = 0;
      this.#tailEnd = 0;
      this.#views.push(this.#tail);
      this.#headroom.push(false);
    }
    this.#tail.set(view, this.#tailEnd);
    this.#tailEnd += length;
    this.#views[this.#views.length - 1] = this.#tail.subarray(this.#tailStart, this.#tailEnd);
  }

  /** Gives the next bytes, with their headroom if they still have it, at most `most` of them, to `use`, which holds what it keeps. There must be some. */
  shift(most: number, use: (view: Buffer, headroom: boolean) => void): void {
    const view = this.#views[this.#first] as Buffer;
    const headroom = this.#headroom[this.#first] === true;
    if (view.length > most) {
      this.#views[this.#first] = view.subarray(most);
      if (this.#first === this.#views.length - 1) this.#tailStart += most;
      this.#headroom[this.#first] = false;
      this.bytes -= most;
      use(view.subarray(0, most), headroom);
      return;
    }
    this.#first += 1;
    this.bytes -= view.length;
    if (this.#first === this.#views.length) {
      this.#views = [];
      this.#headroom = [];
      this.#first = 0;
      this.#tail = undefined;
    } else if (this.#first >= 64) {
      this.#views.splice(0, this.#first);
      this.#headroom.splice(0, this.#first);
      this.#first = 0;
    }
    use(view, headroom);
    drop(view);
  }

  clear(): void {
    for (let i = this.#first; i < this.#views.length; i += 1) drop(this.#views[i] as Buffer);
    this.#views = [];
    this.#headroom = [];
    this.#first = 0;
    this.#tail = undefined;
    this.bytes = 0;
  }
}
