import type { ClientSessionOptions, ServerSessionOptions, SessionOptions } from 'node:http2';

/**
 * What one stream may send before its reader has taken it. It bounds the relay's memory: a peer that stops reading
 * costs about this much per stream and side. Four times the default leaves room for bursts; between 64 KiB and 4 MiB
 * no difference in throughput could be measured, as a window update takes microseconds on a unix socket.
 */
export const STREAM_WINDOW_BYTES = 256 * 1024;

/** What one connection may send; Node returns it as data arrives, so a slow stream never holds up the others. */
export const CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024;

// Request and response headers larger than this are refused. nghttp2 takes about 144 KiB (9 frames) in one block.
const HEADERS_BYTES = 128 * 1024;

const both = {
  // MB. Open streams and queued data count, and beyond it new calls are refused; the default is 10. The windows are what
  // bounds memory here.
  maxSessionMemory: 1024,
  maxSendHeaderBlockLength: HEADERS_BYTES,
  maxHeaderListPairs: 2048, // gRPC metadata is not limited in number
  strictFieldWhitespaceValidation: false, // not ours to judge
  strictSingleValueFields: false, // metadata may repeat any key
} satisfies SessionOptions & { strictSingleValueFields: boolean };

/** Towards kubelet and crictl. */
export const DOWNSTREAM_OPTIONS: ServerSessionOptions = {
  ...both,
  settings: {
    initialWindowSize: STREAM_WINDOW_BYTES,
    maxConcurrentStreams: 10_000, // a client at the limit queues its calls: far above what a node has in flight
    maxHeaderListSize: HEADERS_BYTES,
  },
  // Node closes a connection that resets more than 1,000 streams in a burst. The clients here are root, and cancelling
  // is an ordinary thing to do: kubelet cancels every call it has when it stops.
  streamResetBurst: 100_000,
  streamResetRate: 10_000,
};

/** Towards containerd. No keepalive: grpc-go answers pings more often than every 5 minutes with GOAWAY. */
export const UPSTREAM_OPTIONS: ClientSessionOptions = {
  ...both,
  settings: { initialWindowSize: STREAM_WINDOW_BYTES, maxHeaderListSize: HEADERS_BYTES, enablePush: false },
};
