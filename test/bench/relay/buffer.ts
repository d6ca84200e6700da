import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { memory } from './usage.ts';
import type { Way } from './ways.ts';

const MIB = 2 ** 20;
const MESSAGE_BYTES = 64 * 1024;
// A reader that takes this much and then pauses.
const SIP_BYTES = 512 * 1024;
const PAUSE_MS = 5;

/** What passes, and what it left behind meanwhile. */
export interface Buffered {
  readonly what: string;
  readonly bytes: number;
  /** Sent by the runtime and not received by the client yet, at most: the way's memory and two kernel sockets. */
  readonly mostUnderWay: number;
  /** Peak of resident memory over what it was before. */
  readonly peakGrowth: number;
}

const ANSWERS = [
  {
    what: '64 MiB list, streamed',
    path: '/runtime.v1.RuntimeService/StreamContainers',
    bytes: 64 * MIB,
    message: MESSAGE_BYTES,
  },
  { what: '16 MiB exec answer', path: '/runtime.v1.RuntimeService/ExecSync', bytes: 16 * MIB, message: 16 * MIB },
] as const;

/** A runtime that streams large answers as fast as it is let, since no packaged containerd has lists that stream yet. */
export class LargeRuntime implements AsyncDisposable {
  readonly path: string;
  readonly #server = createServer();
  readonly #sockets = new Set<Socket>();

  private constructor(path: string) {
    this.path = path;
    this.#server.on('connection', (socket: Socket) => this.#sockets.add(socket));
    this.#server.on('stream', (stream: ServerHttp2Stream, headers) => {
      stream.on('error', () => undefined);
      stream.resume();
      const answer = ANSWERS.find(({ path: one }) => one === headers[':path']);
      if (answer !== undefined) respond(stream, answer.bytes, answer.message);
      else
        stream.respond(
          { ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '12' },
          { endStream: true },
        );
    });
  }

  static async listen(path: string): Promise<LargeRuntime> {
    const runtime = new LargeRuntime(path);
    runtime.#server.listen(path);
    await once(runtime.#server, 'listening');
    return runtime;
  }

  /** What the kernel has taken of it. */
  get bytesSent(): number {
    let sent = 0;
    for (const socket of this.#sockets) sent += socket.bytesWritten - socket.writableLength;
    return sent;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await rm(this.path, { force: true });
  }
}

function respond(stream: ServerHttp2Stream, bytes: number, messageBytes: number): void {
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  const piece = Buffer.alloc(MESSAGE_BYTES, 'x');
  const head = Buffer.alloc(5);
  head.writeUInt32BE(messageBytes, 1);
  let left = bytes;
  let leftOfMessage = 0;
  const more = (): void => {
    while (left > 0) {
      if (leftOfMessage === 0) {
        stream.write(head);
        leftOfMessage = messageBytes;
      }
      const n = Math.min(piece.length, leftOfMessage, left);
      left -= n;
      leftOfMessage -= n;
      if (!stream.write(piece.subarray(0, n))) {
        stream.once('drain', more);
        return;
      }
    }
    stream.end();
  };
  more();
}

/** Reads each large answer slowly through a way. */
export async function buffered(way: Way, runtime: LargeRuntime, signal: AbortSignal): Promise<Buffered[]> {
  const results: Buffered[] = [];
  for (const answer of ANSWERS) {
    await readSlowly(way, runtime, answer.path, signal); // what the first one costs is code, not buffers
    results.push({ what: answer.what, ...(await readSlowly(way, runtime, answer.path, signal)) });
  }
  return results;
}

async function readSlowly(
  way: Way,
  runtime: LargeRuntime,
  path: string,
  signal: AbortSignal,
): Promise<Omit<Buffered, 'what'>> {
  const { pid = 0 } = way;
  const session = connect('http://localhost', { path: way.path } as object);
  session.on('error', () => undefined);
  await once(session, 'connect');
  const socket = session.socket;
  await writeFile(`/proc/${pid}/clear_refs`, '5'); // proc_pid_clear_refs(5): the peak begins anew
  const before = (await memory(pid)).resident;
  const sentBefore = runtime.bytesSent;
  const readBefore = socket.bytesRead;
  const stream = session.request({
    ':method': 'POST',
    ':path': path,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  stream.end(Buffer.alloc(5));
  let bytes = 0;
  let most = 0;
  let sip = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    sip += chunk.length;
    most = Math.max(most, runtime.bytesSent - sentBefore - (socket.bytesRead - readBefore));
    if (sip < SIP_BYTES) continue;
    sip = 0;
    await delay(PAUSE_MS, undefined, { signal });
  }
  const { peak } = await memory(pid);
  session.destroy();
  return { bytes, mostUnderWay: most, peakGrowth: Math.max(0, peak - before) };
}
