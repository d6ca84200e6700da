/** When things happen and how long they may take. Times are in milliseconds. */
export const PLAN = {
  /** The restarted relay is killed so often; every third time it is stopped with SIGTERM instead. */
  relayFaultEveryMs: 20_000,
  gracefulEvery: 3,
  /** containerd is killed so often, for the first time in the middle of the first interval. */
  runtimeFaultEveryMs: 60_000,
  // Faults are spread, so that they meet every moment of the load, and now and then each other.
  relayJitterMs: 2000,
  runtimeJitterMs: 8000,
  /** A relay of which nothing is heard for so long after its end is not coming back. */
  relayReturnLimitMs: 30_000,
  runtimeReturnLimitMs: 30_000,
  /** Calls come without a break from before a fault of the relay until after it. */
  pressureBeforeMs: 300,
  pressureAfterMs: 700,
  /** All load pauses so often, for what must be the same at every quiet moment. */
  quietEveryMs: 20_000,
  quietSettleMs: 500,
  sampleEveryMs: 1000,
  connectEveryMs: 50,
  /** Deadline of calls that are answered at once; longer than all faults together take. */
  quickCallMs: 30_000,
  slowCallMs: 60_000,
  /** What takes longer than this, away from all faults, has hung. */
  slowMs: 5000,
  /** After containerd answers directly, a call that waited at a relay may take so much longer, and as the clock is late. */
  returnLagMs: 100,
} as const;

/** Settings of the relays under test. */
export const RELAY = {
  // containerd is back after 0.9 to 1.6 s (0.2 s of them its supervisor's), on two busy cores after more.
  upstreamWaitMs: 15_000,
  drainTimeoutMs: 5000,
  // As in hack/systemd/gantry-proxy.service and .socket.
  restartDelaySeconds: 0.1,
  backlog: 4096,
} as const;

export const LAB_NAME = 't-soak';
