import { status } from '../grpc-status.ts';
import { connected } from './h2/connect.ts';
import { field } from './h2/fields.ts';
import { callUnary } from './unary.ts';

/**
 * One unary call on a connection of its own: it shows that the server accepts connections and answers.
 *
 * @returns the gRPC status of the answer; undefined when none came in time
 */
export async function probe(
  socket: string,
  path: string,
  message: Uint8Array,
  timeoutMs: number,
): Promise<number | undefined> {
  const { promise: ended, resolve: end } = Promise.withResolvers<undefined>();
  const timer = setTimeout(end, timeoutMs, undefined);
  const connecting = connected(socket, { onClose: () => end(undefined) });
  try {
    const connection = await Promise.race([connecting, ended]);
    if (connection === undefined) return undefined;
    const answer = await Promise.race([callUnary(connection, field(':path', path), message), ended]);
    return answer?.code;
  } catch {
    return undefined; // nobody is there
  } finally {
    clearTimeout(timer);
    connecting.then(
      (connection) => connection.destroy(),
      () => undefined,
    );
  }
}

const SHARED_MS = 1000;
const TIMEOUT_MS = 1000;
const VERSION = '/runtime.v1.RuntimeService/Version';
const EMPTY = new Uint8Array();

/** Tells whether the runtime answers, asking it at most once a second however many want to know. */
export function runtimeProbe(socket: string, timeoutMs = TIMEOUT_MS, sharedMs = SHARED_MS): () => Promise<boolean> {
  let asked = Number.NEGATIVE_INFINITY;
  let answer: Promise<boolean> = Promise.resolve(false);
  return () => {
    if (performance.now() - asked < sharedMs) return answer;
    asked = performance.now();
    answer = probe(socket, VERSION, EMPTY, timeoutMs).then(
      // Any status is an answer, also UNIMPLEMENTED (a runtime of v1alpha2), but not that nobody is there.
      (code) => code !== undefined && code !== status.UNAVAILABLE,
    );
    return answer;
  };
}
