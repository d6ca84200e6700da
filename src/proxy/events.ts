import type { Writable } from 'node:stream';

/** What the relay reports. There is nothing per call: kubelet makes tens of them every second. */
export type RelayEvent =
  | { event: 'started'; listen: string; upstream: string }
  | { event: 'upstream-absent'; upstream: string; reason: string }
  | { event: 'upstream-lost'; upstream: string; reason: string }
  | { event: 'upstream-back'; upstream: string; absentMs: number }
  | { event: 'path-refused'; path: string }
  | { event: 'internal-error'; reason: string }
  | { event: 'stopping'; listen: string; callsInFlight: number }
  | { event: 'stopped'; listen: string; callsCut: number };

export type Log = (event: RelayEvent) => void;

/** One JSON line per event, for journald and people alike. */
export function jsonLines(out: Writable): Log {
  return (event) => {
    out.write(`${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`);
  };
}
