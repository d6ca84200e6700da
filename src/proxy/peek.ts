import { HEAD_BYTES } from './messages.ts';

// What a call is about stands first in its message: encoders write fields in the order of their numbers.
const MOST_BYTES = 4096;
const NOTHING: Buffer = Buffer.alloc(0);

/** Sees the bytes of a call cross. Views are good until the call returns. */
export interface Peek {
  request(view: Buffer): void;
  answer(view: Buffer): void;
}

/** Keeps the beginning of the first message of either direction. */
export class Beginnings implements Peek {
  #request = NOTHING;
  #answer = NOTHING;

  request(view: Buffer): void {
    if (this.#request.length < MOST_BYTES) this.#request = joined(this.#request, view);
  }

  answer(view: Buffer): void {
    if (this.#answer.length < MOST_BYTES) this.#answer = joined(this.#answer, view);
  }

  get requestMessage(): Uint8Array {
    return messageOf(this.#request);
  }

  get answerMessage(): Uint8Array {
    return messageOf(this.#answer);
  }
}

function joined(before: Buffer, view: Buffer): Buffer {
  return Buffer.concat([before, view.subarray(0, MOST_BYTES - before.length)]);
}

/** Compressed ones are as good as none: neither kubelet nor crictl compresses. */
function messageOf(bytes: Buffer): Uint8Array {
  return bytes.length < HEAD_BYTES || bytes[0] !== 0 ? NOTHING : bytes.subarray(HEAD_BYTES);
}
