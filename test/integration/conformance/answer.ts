import { constants } from 'node:http2';
import { gunzipSync } from 'node:zlib';
import type { RawClient } from '../../../src/proxy/relay.fixture.ts';

/** Header fields as they stand in their block: in order, repeated ones too. */
export type FieldList = readonly (readonly [name: string, value: string])[];

/** A message as it is framed on the wire. */
export interface WireMessage {
  /** 1: compressed. */
  readonly flag: number;
  readonly bytes: Buffer;
}

/** All that a client sees of a call. */
export interface Answer {
  readonly headers: FieldList;
  /** One header block is the whole answer ("trailers-only" in the gRPC over HTTP/2 specification). */
  readonly trailersOnly: boolean;
  readonly messages: readonly WireMessage[];
  /** Bytes after the last whole message. */
  readonly excess: Buffer;
  readonly trailers: FieldList;
  readonly resetCode: number;
}

/** A call that goes on. */
export interface Progress {
  messages(): readonly WireMessage[];
  ended(): boolean;
}

export interface Call {
  readonly path: string;
  readonly headers?: readonly string[];
  /** With its framing, so that it may be wrong. */
  readonly body: Buffer;
  /** For streams without an end: the client cancels when this is done. */
  readonly meanwhile?: ((progress: Progress) => Promise<void>) | undefined;
}

const TIME_LIMIT_MS = 30_000;

export async function perform(client: RawClient, call: Call): Promise<Answer> {
  const stream = client.request(call.path, call.headers, AbortSignal.timeout(TIME_LIMIT_MS));
  const answer = client.answer(stream);
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  stream.end(call.body);
  if (call.meanwhile !== undefined) {
    await call.meanwhile({
      messages: () => takeMessages(Buffer.concat(chunks)).messages,
      ended: () => stream.destroyed,
    });
    stream.close(constants.NGHTTP2_CANCEL);
  }
  const { rawHeaders, headersEndStream, body, rawTrailers, resetCode } = await answer;
  return {
    headers: fieldList(rawHeaders),
    trailersOnly: headersEndStream,
    ...takeMessages(body),
    trailers: fieldList(rawTrailers),
    resetCode,
  };
}

/** The gRPC status; undefined when there is none. */
export function statusOf({ headers, trailers, trailersOnly }: Answer): number | undefined {
  const value = (trailersOnly ? headers : trailers).find(([name]) => name === 'grpc-status')?.[1];
  return value === undefined ? undefined : Number(value);
}

/** What the message says. gzip is the only encoding that these runtimes have. */
export function uncompressed({ flag, bytes }: WireMessage): Buffer {
  return flag === 0 ? bytes : gunzipSync(bytes);
}

const MESSAGE_HEAD = 5;

function takeMessages(body: Buffer): { messages: WireMessage[]; excess: Buffer } {
  const messages: WireMessage[] = [];
  let at = 0;
  while (body.length - at >= MESSAGE_HEAD) {
    const end = at + MESSAGE_HEAD + body.readUInt32BE(at + 1);
    if (end > body.length) break;
    messages.push({ flag: body.readUInt8(at), bytes: body.subarray(at + MESSAGE_HEAD, end) });
    at = end;
  }
  return { messages, excess: body.subarray(at) };
}

function fieldList(flat: readonly string[]): FieldList {
  return Array.from({ length: flat.length / 2 }, (_, index) => [flat[2 * index] ?? '', flat[2 * index + 1] ?? '']);
}
