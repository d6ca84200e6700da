import type { ConnectionLimits } from './h2/options.ts';

/**
 * What one stream may send before its reader has taken it. It bounds the relay's memory: a peer that stops reading
 * costs about this much per stream and side. Four times the default leaves room for bursts; between 64 KiB and 4 MiB
 * no difference in throughput could be measured, as a window update takes microseconds on a unix socket.
 */
export const STREAM_WINDOW_BYTES = 256 * 1024;

/** Towards kubelet and crictl. */
export const DOWNSTREAM_LIMITS: Partial<ConnectionLimits> = {
  streamWindowBytes: STREAM_WINDOW_BYTES,
  queuedBytes: 1000 * STREAM_WINDOW_BYTES, // so many answers may stand still on one connection
  // The clients here are root, and cancelling is an ordinary thing to do: kubelet cancels every call it has when it stops.
  resets: { burst: 100_000, perSecond: 10_000 },
};

/** Towards containerd. No keepalive: grpc-go answers pings more often than every 5 minutes with GOAWAY. */
export const UPSTREAM_LIMITS: Partial<ConnectionLimits> = { streamWindowBytes: STREAM_WINDOW_BYTES };
