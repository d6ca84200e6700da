import { connect } from 'node:http2';
import { status } from '@grpc/grpc-js';

/**
 * One unary call on a connection of its own: it shows that the server accepts connections and answers.
 *
 * @returns the gRPC status of the answer; undefined when none came in time
 */
export function probe(
  socket: string,
  path: string,
  message: Uint8Array,
  timeoutMs: number,
): Promise<number | undefined> {
  return new Promise((resolve) => {
    const session = connect('http://localhost', { path: socket } as object);
    const finish = (code: number | undefined): void => {
      clearTimeout(timer);
      resolve(code);
      session.destroy();
    };
    const timer = setTimeout(finish, timeoutMs, undefined);
    session.on('error', () => finish(undefined));
    session.on('close', () => finish(undefined));
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    const read = (headers: Record<string, unknown>): void => {
      if (headers['grpc-status'] !== undefined) finish(Number(headers['grpc-status']));
    };
    stream.on('response', read);
    stream.on('trailers', read);
    stream.on('error', () => finish(undefined));
    stream.resume();
    const head = Buffer.alloc(5);
    head.writeUInt32BE(message.length, 1);
    stream.end(Buffer.concat([head, message]));
  });
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
