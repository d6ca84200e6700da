import { once } from 'node:events';
import type { ServerHttp2Stream } from 'node:http2';
import { status } from '@grpc/grpc-js';
import { GantryError, REASONS } from '../errors.ts';
import type { OwnMethod } from './own.ts';
import { type StatusCode, statusTrailers } from './status.ts';
import { stopRequest } from './stop.ts';

// The requests of the relay's own methods are small.
const REQUEST_BYTES = 64 * 1024;
const HEAD_BYTES = 5; // flag and length (gRPC over HTTP/2, Length-Prefixed-Message)

/** How a call that the relay answered itself has ended. */
export interface Served {
  code: StatusCode;
  message: string;
}

const OK: Served = { code: status.OK, message: '' };
const STOPPING: Served = { code: status.UNAVAILABLE, message: 'gantry proxy is stopping' };

/** Answers one call by a method of the relay's own. Never rejects. `stopping` ends it early, with a status. */
export async function serve(down: ServerHttp2Stream, method: OwnMethod, stopping: AbortSignal): Promise<Served> {
  const gone = new AbortController();
  down.on('close', () => gone.abort());
  let trailers = {};
  down.on('wantTrailers', () => down.sendTrailers(trailers));
  let end: Served;
  try {
    // Headers first, so that whoever follows something knows that it has begun.
    down.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    end = await answer(down, method, AbortSignal.any([gone.signal, stopping]));
  } catch (error) {
    const { reason, message } = GantryError.from(error);
    end = { code: REASONS[reason].grpc, message };
  }
  if (gone.signal.aborted || down.destroyed) return { code: status.CANCELLED, message: '' };
  if (stopping.aborted && end.code !== status.OK) end = STOPPING;
  trailers = statusTrailers(end.code, end.message);
  down.end();
  if (!down.readableEnded) stopRequest(down);
  return end;
}

async function answer(down: ServerHttp2Stream, method: OwnMethod, signal: AbortSignal): Promise<Served> {
  const request = await readRequest(down);
  if (!(request instanceof Uint8Array)) return request;
  for await (const message of method(request, signal)) {
    if (signal.aborted) break;
    if (!down.write(frame(message))) await once(down, 'drain', { signal });
  }
  return signal.aborted ? STOPPING : OK;
}

/** The one message of a request, or why it is none. */
async function readRequest(down: ServerHttp2Stream): Promise<Uint8Array | Served> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of down.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > REQUEST_BYTES) {
      return { code: status.RESOURCE_EXHAUSTED, message: `the request has more than ${REQUEST_BYTES} bytes` };
    }
    chunks.push(chunk);
  }
  const body = Buffer.concat(chunks);
  if (body.length < HEAD_BYTES || body.readUInt32BE(1) !== body.length - HEAD_BYTES) {
    return { code: status.INTERNAL, message: 'the request is not one message' };
  }
  if (body.readUInt8(0) !== 0) return { code: status.UNIMPLEMENTED, message: 'compressed requests are not understood' };
  return body.subarray(HEAD_BYTES);
}

function frame(message: Uint8Array): Buffer {
  const framed = Buffer.allocUnsafe(HEAD_BYTES + message.length);
  framed.writeUInt8(0, 0);
  framed.writeUInt32BE(message.length, 1);
  framed.set(message, HEAD_BYTES);
  return framed;
}
