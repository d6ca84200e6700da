import type { Connection } from './h2/connection.ts';
import { type Field, type Fields, field, fieldValue } from './h2/fields.ts';
import { NOBODY } from './h2/stream.ts';
import { framed, MessageReader } from './messages.ts';
import { codeOf } from './status.ts';

const MOST_BYTES = 16 * 1024 * 1024;
const EMPTY: Uint8Array = new Uint8Array();
/** What the headers of a call of the relay's own have further to its path. */
export const CALL: Fields = [
  field(':method', 'POST'),
  field(':scheme', 'http'),
  field(':authority', 'localhost'),
  field('content-type', 'application/grpc'),
  field('te', 'trailers'),
];

/** What a call of the relay's own brought: the status, and the message if there was one. */
export interface UnaryAnswer {
  code: number;
  message: Uint8Array | undefined;
}

/** A call of the relay's own, on a connection that others use, too; undefined when no whole answer came. */
export function callUnary(connection: Connection, path: Field, request = EMPTY): Promise<UnaryAnswer | undefined> {
  return new Promise((resolve) => {
    const reader = new MessageReader(undefined, MOST_BYTES);
    let message: Uint8Array | undefined;
    const end = (fields: Fields): void => {
      const code = fieldValue(fields, 'grpc-status');
      if (code !== undefined) resolve({ code: codeOf(code), message });
    };
    const stream = connection.open({
      ...NOBODY,
      onHeaders: end,
      onData: (view) => {
        for (const one of reader.read(view)) message ??= one;
        stream.consumed(view.length);
      },
      onTrailers: end,
      onClosed: () => resolve(undefined),
    });
    stream.sendHeaders([path, ...CALL], false);
    stream.sendData(framed(request), true);
  });
}
