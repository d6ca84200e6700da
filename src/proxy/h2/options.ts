/** What a connection allows, and what it keeps at most. All of it is bounded; see docs of each. */
export interface ConnectionLimits {
  /** What one stream may send before its reader has taken it: the most that a stalled stream costs. */
  streamWindowBytes: number;
  /** What the whole connection may send before it is credited. */
  connectionWindowBytes: number;
  /**
   * When the connection's window is given back. `consumed`: with the stream's, so that whoever stalls his streams stalls
   * his own connection and no memory but the window. `arrival`: at once, so that on a connection that is shared by many
   * clients no stalled stream holds up the others; then stream windows and the clients' `queuedBytes` are the bound.
   */
  connectionCredit: 'consumed' | 'arrival';
  /** Streams that the peer may have open. */
  maxConcurrentStreams: number;
  /** Streams of ours that may wait while the peer allows no more (RFC 9113 5.1.2). */
  waitingStreams: number;
  headerListBytes: number;
  /** Bytes that may wait for a peer that does not read, over all streams; beyond that it loses the connection. */
  queuedBytes: number;
  /** Streams that the peer resets or makes this side reset ("rapid reset", "made you reset"). */
  resets: { burst: number; perSecond: number };
  /** Frames that carry nothing: PING, SETTINGS, PRIORITY, unknown ones, empty DATA, frames for closed streams. */
  idleFrames: { burst: number; perSecond: number };
  /** A peer that has not sent its preface and SETTINGS by then loses the connection. */
  handshakeTimeoutMs: number;
}

const common: ConnectionLimits = {
  // Between 64 KiB and 4 MiB no difference in throughput could be measured; a list of 300 containers fits into this.
  streamWindowBytes: 256 * 1024,
  connectionWindowBytes: 16 * 1024 * 1024,
  connectionCredit: 'consumed',
  maxConcurrentStreams: 10_000,
  waitingStreams: 10_000,
  headerListBytes: 128 * 1024,
  queuedBytes: 64 * 1024 * 1024,
  // kubelet cancels every call it has when it stops, and that is no attack.
  resets: { burst: 10_000, perSecond: 2000 },
  // grpc-go sends a PING for every sample of its bandwidth estimate.
  idleFrames: { burst: 20_000, perSecond: 10_000 },
  handshakeTimeoutMs: 10_000,
};

/** Towards a client, which may be anybody who may open the socket. */
export const SERVER_LIMITS: ConnectionLimits = common;

/** Towards the runtime, on the connection that all clients share. */
export const CLIENT_LIMITS: ConnectionLimits = { ...common, connectionCredit: 'arrival', maxConcurrentStreams: 0 };
