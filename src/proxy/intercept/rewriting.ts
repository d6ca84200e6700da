import { type StatusCode, status } from '../../grpc-status.ts';
import { type Field, type Fields, fieldValue } from '../h2/fields.ts';
import type { AnswerStage } from '../h2/splice.ts';
import type { Stream } from '../h2/stream.ts';
import { framed, headOf, MessageError, MessageReader } from '../messages.ts';
import { codeOf, decodeMessage, statusFields } from '../status.ts';
import type { AnswerRewriter } from './interceptor.ts';

/** What gRPC clients of the CRI take at most (kubelet's and crictl's maximum message size). */
export const MOST_MESSAGE_BYTES = 16 * 1024 * 1024;
// Below it, one more frame costs more than a copy.
const COPY_BYTES = 16 * 1024;
// Of what has been rewritten and waits for the client; beyond it the runtime waits, too.
const MOST_QUEUED_BYTES = 256 * 1024;

/** An answer on its way through a rewriter: in order, with at most one message being gathered. */
export class Rewriting implements AnswerStage {
  readonly data: ((view: Buffer) => void) | undefined;
  readonly #rewriter: AnswerRewriter;
  readonly #down: Stream;
  readonly #fail: (error: unknown) => void;
  #credit: (bytes: number) => void = () => undefined;
  #reader: MessageReader | undefined;
  #owed = 0; // bytes of the runtime's that it has not been given back
  #tail: Promise<void> | undefined; // ends when all messages so far have been rewritten

  /** @param fail ends the call, when something was thrown */
  constructor(rewriter: AnswerRewriter, down: Stream, fail: (error: unknown) => void) {
    this.#rewriter = rewriter;
    this.#down = down;
    this.#fail = fail;
    this.data = rewriter.message === undefined ? undefined : (view) => this.#read(view);
  }

  begin(headers: Fields, credit: (bytes: number) => void): void {
    this.#credit = credit;
    this.#reader = new MessageReader(fieldValue(headers, 'grpc-encoding'), MOST_MESSAGE_BYTES);
  }

  taken(): void {
    this.#settle();
  }

  end(last: Fields, send: (last: Fields) => void): void {
    const finish = (): void => {
      if (this.#reader?.partial === true) {
        this.#fail(new MessageError(status.INTERNAL, 'the runtime ended its answer inside a message'));
      } else {
        if (fieldValue(last, 'grpc-status') === '0') this.#send(this.#rewriter.end?.());
        send(this.#rewriteStatus(last));
      }
    };
    if (this.#tail === undefined) finish();
    else this.#tail.then(finish).catch(this.#fail);
  }

  #read(view: Buffer): void {
    this.#owed += view.length;
    try {
      for (const message of this.#reader?.read(view) ?? []) this.#rewrite(message);
    } catch (error) {
      this.#fail(error);
    }
    this.#settle();
  }

  #rewrite(message: Uint8Array): void {
    if (this.#tail !== undefined) {
      this.#follow(this.#tail.then(async () => this.#send(await this.#rewriter.message?.(message))));
      return;
    }
    const changed = this.#rewriter.message?.(message);
    if (changed instanceof Promise) this.#follow(changed.then((one) => this.#send(one)));
    else this.#send(changed);
  }

  #follow(work: Promise<void>): void {
    const tail = work.catch(this.#fail).then(() => {
      if (this.#tail !== tail) return;
      this.#tail = undefined;
      this.#settle();
    });
    this.#tail = tail;
  }

  #send(message: Uint8Array | undefined): void {
    if (message === undefined) return;
    if (message.length < COPY_BYTES) {
      this.#down.sendData(framed(message), false);
      return;
    }
    this.#down.sendData(headOf(message.length), false);
    this.#down.sendData(Buffer.from(message.buffer, message.byteOffset, message.length), false);
  }

  #settle(): void {
    if (this.#owed === 0 || this.#tail !== undefined || this.#down.queuedBytes > MOST_QUEUED_BYTES) return;
    const owed = this.#owed;
    this.#owed = 0;
    this.#credit(owed);
  }

  #rewriteStatus(last: Fields): Fields {
    const code = fieldValue(last, 'grpc-status');
    if (this.#rewriter.status === undefined || code === undefined) return last;
    const before = { code: codeOf(code) as StatusCode, message: decodeMessage(fieldValue(last, 'grpc-message') ?? '') };
    const after = this.#rewriter.status(before);
    if (after.code === before.code && after.message === before.message) return last;
    return [...last.filter(isNoStatus), ...statusFields(after.code, after.message)];
  }
}

function isNoStatus({ name }: Field): boolean {
  return name !== 'grpc-status' && name !== 'grpc-message' && name !== 'grpc-status-details-bin';
}

/** Several on one answer: the last is nearest to the runtime. */
export function chained(rewriters: readonly AnswerRewriter[]): AnswerRewriter | undefined {
  if (rewriters.length < 2) return rewriters[0];
  return rewriters.reduce((outer, inner) => ({
    ...((outer.message !== undefined || inner.message !== undefined) && {
      async message(message: Uint8Array) {
        const changed = inner.message === undefined ? message : await inner.message(message);
        return changed === undefined || outer.message === undefined ? changed : outer.message(changed);
      },
    }),
    end: () => inner.end?.() ?? outer.end?.(),
    status(before) {
      const changed = inner.status?.(before) ?? before;
      return outer.status?.(changed) ?? changed;
    },
  }));
}
