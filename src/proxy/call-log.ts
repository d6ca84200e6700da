import { nameOfCode, status } from '../grpc-status.ts';
import type { Log, LogLevel } from '../log.ts';
import type { CallRecord, CallSink } from './recorder.ts';
import { decodeMessage } from './status.ts';

/**
 * One event `call` for each call that changes something or is somebody's doing; what only reads, and kubelet does that
 * many times a second, is for those who debug. Of a message only IDs and names are ever looked at for it.
 */
export class CallLog implements CallSink {
  readonly #log: Log;

  constructor(log: Log) {
    this.#log = log;
  }

  callEnded(call: CallRecord): void {
    const level = levelOf(call);
    if (level === undefined || !this.#log.writes(level)) return;
    this.#log[level]('call', {
      method: call.method.label,
      code: nameOfCode(call.code),
      mode: call.mode,
      ...call.subject,
      durationMs: rounded(call.ownMs + call.upstreamMs),
      ownMs: rounded(call.ownMs),
      ...(call.message !== '' && { message: decodeMessage(call.message) }),
    });
  }
}

function levelOf({ code, method, mode }: CallRecord): LogLevel | undefined {
  if (mode === 'refused') return undefined; // reported once per path, as a client may do it without end
  if (mode === 'served') return 'debug';
  // A client that goes away is the end of every event stream, and no failure.
  if (code !== status.OK && code !== status.CANCELLED) return 'warn';
  return method.kind === 'read' || method.kind === 'watch' ? 'debug' : 'info';
}

function rounded(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
