import { status } from '@grpc/grpc-js';
import type { Connection } from './h2/connection.ts';
import { type Field, type Fields, field, fieldValue } from './h2/fields.ts';
import { NOBODY } from './h2/stream.ts';
import { codeOf } from './status.ts';

/** Versions of the CRI that a runtime may speak. For the methods that both have, their messages are the same on the wire. */
export type RuntimeApi = 'v1' | 'v1alpha2';

const V1 = '/runtime.v1.';
const V1ALPHA2 = '/runtime.v1alpha2.';
const VERSION = 'RuntimeService/Version';
const CACHED_PATHS = 200;
const EMPTY_MESSAGE = Buffer.alloc(5); // no flag, no bytes

/** Asks a runtime whether it has v1, and else whether it has v1alpha2; undefined when it does not say. */
export async function askRuntimeApi(connection: Connection): Promise<RuntimeApi | undefined> {
  const code = await codeOfCall(connection, V1 + VERSION);
  if (code === undefined) return undefined;
  // Any other error is one of a method that is there. A runtime without either keeps its own words for it.
  if (code !== status.UNIMPLEMENTED) return 'v1';
  return (await codeOfCall(connection, V1ALPHA2 + VERSION)) === status.OK ? 'v1alpha2' : 'v1';
}

const paths = new Map<string, Field>();

/** The `:path` of a v1 call on a runtime that speaks v1alpha2. What that version lacks, the runtime says itself. */
export function v1alpha2Path(path: string): Field {
  const known = paths.get(path);
  if (known !== undefined) return known;
  const mapped = field(':path', path.startsWith(V1) ? V1ALPHA2 + path.slice(V1.length) : path);
  if (paths.size < CACHED_PATHS) paths.set(path, mapped);
  return mapped;
}

/** The status of one call with an empty message; undefined when none came. */
function codeOfCall(connection: Connection, path: string): Promise<number | undefined> {
  return new Promise((resolve) => {
    const read = (fields: Fields): void => {
      const code = fieldValue(fields, 'grpc-status');
      if (code !== undefined) resolve(codeOf(code));
    };
    const stream = connection.open({
      ...NOBODY,
      onHeaders: read,
      onData: (view) => stream.consumed(view.length),
      onTrailers: read,
      onClosed: () => resolve(undefined),
    });
    stream.sendHeaders(
      [
        field(':method', 'POST'),
        field(':scheme', 'http'),
        field(':path', path),
        field(':authority', 'localhost'),
        field('content-type', 'application/grpc'),
        field('te', 'trailers'),
      ],
      false,
    );
    stream.sendData(EMPTY_MESSAGE, true);
  });
}
