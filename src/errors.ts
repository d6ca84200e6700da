import { status } from './grpc-status.ts';

/**
 * Every way Gantry can fail, by a stable reason. `exitCode` is what the command line exits with (docs/exit-codes.md),
 * `grpc` the status under which the agent reports it.
 */
export const REASONS = {
  INTERNAL: { exitCode: 1, grpc: status.INTERNAL },
  USAGE: { exitCode: 2, grpc: status.INVALID_ARGUMENT },
  NOT_FOUND: { exitCode: 3, grpc: status.NOT_FOUND },
  NOT_RUNNING: { exitCode: 4, grpc: status.FAILED_PRECONDITION },
  IS_SANDBOX: { exitCode: 5, grpc: status.FAILED_PRECONDITION },
  UNSUPPORTED: { exitCode: 6, grpc: status.FAILED_PRECONDITION },
  MANAGED_BY_KUBELET: { exitCode: 7, grpc: status.FAILED_PRECONDITION },
  BUSY: { exitCode: 8, grpc: status.ABORTED },
  CONFLICT: { exitCode: 9, grpc: status.ABORTED },
  PEER_UNKNOWN: { exitCode: 10, grpc: status.FAILED_PRECONDITION },
  PEER_UNREACHABLE: { exitCode: 11, grpc: status.UNAVAILABLE },
  PEER_UNTRUSTED: { exitCode: 12, grpc: status.PERMISSION_DENIED },
  PEER_LOST: { exitCode: 13, grpc: status.UNAVAILABLE },
  CRIU_MISSING: { exitCode: 20, grpc: status.FAILED_PRECONDITION },
  CHECKPOINT_FAILED: { exitCode: 21, grpc: status.ABORTED },
  RESTORE_FAILED: { exitCode: 22, grpc: status.ABORTED },
  NO_SPACE: { exitCode: 23, grpc: status.RESOURCE_EXHAUSTED },
  IMAGE_MISSING: { exitCode: 24, grpc: status.FAILED_PRECONDITION },
  VERIFICATION_FAILED: { exitCode: 25, grpc: status.ABORTED },
  RUNTIME_UNAVAILABLE: { exitCode: 26, grpc: status.UNAVAILABLE },
  PROXY_UNAVAILABLE: { exitCode: 29, grpc: status.UNAVAILABLE },
  NAME_TAKEN: { exitCode: 30, grpc: status.ALREADY_EXISTS },
  SLOT_EMPTY: { exitCode: 31, grpc: status.FAILED_PRECONDITION },
  NOTHING_RETAINED: { exitCode: 32, grpc: status.FAILED_PRECONDITION },
  SWAP_FAILED: { exitCode: 33, grpc: status.ABORTED },
  NOT_FITTING: { exitCode: 34, grpc: status.FAILED_PRECONDITION },
  TIMEOUT: { exitCode: 37, grpc: status.DEADLINE_EXCEEDED },
  NOT_ALLOWED: { exitCode: 36, grpc: status.PERMISSION_DENIED },
  BAD_ARCHIVE: { exitCode: 35, grpc: status.DATA_LOSS },
  AGENT_UNAVAILABLE: { exitCode: 27, grpc: status.UNAVAILABLE },
  OUTCOME_UNKNOWN: { exitCode: 28, grpc: status.UNKNOWN },
  CANCELLED: { exitCode: 130, grpc: status.CANCELLED },
} as const;

export type Reason = keyof typeof REASONS;

/** The one error class: what happened and to what (`message`), why (`cause`), and what to do next (`hint`). */
export class GantryError extends Error {
  readonly reason: Reason;
  readonly hint: string;

  constructor(reason: Reason, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.name = 'GantryError';
    this.reason = reason;
    this.hint = options.hint ?? '';
  }

  get exitCode(): number {
    return REASONS[this.reason].exitCode;
  }

  /** Anything thrown, as a GantryError; what is one already passes through. */
  static from(error: unknown): GantryError {
    if (error instanceof GantryError) return error;
    if (isAbort(error)) return new GantryError('CANCELLED', 'cancelled', { cause: error });
    const code = errnoOf(error);
    if (code === 'ENOSPC' || code === 'EDQUOT') {
      return new GantryError('NO_SPACE', messageOf(error), { cause: error, hint: 'free disk space and try again' });
    }
    return new GantryError('INTERNAL', messageOf(error), { cause: error });
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The errno or library code of an error ("ECONNREFUSED"), or undefined. */
export function errnoOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}

function isAbort(error: unknown): boolean {
  return error instanceof Error && (error.name === 'AbortError' || errnoOf(error) === 'ABORT_ERR');
}
