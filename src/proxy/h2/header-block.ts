import { ConnectionError, DEFAULT_MAX_FRAME_SIZE, ErrorCode } from './frames.ts';

// A block of the largest size needs few frames if they are full; somebody who sends more is at something else
// ("CONTINUATION flood": endless small or empty frames).
const FRAMES_BEYOND_FULL = 8;

/** Puts a header block together that comes in more than one frame (RFC 9113 4.3, 6.10). */
export class HeaderBlock {
  readonly #maxBytes: number;
  readonly #maxFrames: number;
  #fragments: Buffer[] = [];
  #bytes = 0;
  open = false;
  streamId = 0;
  endStream = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#maxFrames = Math.ceil(maxBytes / DEFAULT_MAX_FRAME_SIZE) + FRAMES_BEYOND_FULL;
  }

  begin(streamId: number, endStream: boolean, fragment: Buffer): void {
    this.open = true;
    this.streamId = streamId;
    this.endStream = endStream;
    this.add(fragment);
  }

  add(fragment: Buffer): void {
    this.#bytes += fragment.length;
    // The encoding is hardly larger than the list, so this is no list that would be allowed; and a block that is not read
    // to its end leaves the table out of step, so it is not the stream that ends.
    if (this.#bytes > this.#maxBytes || this.#fragments.length >= this.#maxFrames) {
      throw new ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, 'a header block without end');
    }
    this.#fragments.push(Buffer.from(fragment)); // the chunk it came in is not to be kept for it
  }

  take(): Buffer {
    const block = this.#fragments.length === 1 ? (this.#fragments[0] as Buffer) : Buffer.concat(this.#fragments);
    this.#fragments = [];
    this.#bytes = 0;
    this.open = false;
    return block;
  }
}
