/** Why a command of the lab fails: what and to what (`message`), and what to do next (`hint`). */
export class LabError extends Error {
  readonly hint: string;
  readonly exitCode: number;

  constructor(message: string, options: { hint?: string; exitCode?: number; cause?: unknown } = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.name = 'LabError';
    this.hint = options.hint ?? '';
    this.exitCode = options.exitCode ?? EXIT.failed;
  }
}

/** Numbers as in src/errors.ts, which is not imported because it loads gRPC: `exec` starts in half the time. */
export const EXIT = { failed: 1, usage: 2, notFound: 3, busy: 8, cancelled: 130 } as const;

export function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}

/** What `action` gives, or `otherwise` when a file or folder it needs is not there (any more). */
export async function ifPresent<Value, Other>(action: Promise<Value>, otherwise: Other): Promise<Value | Other> {
  try {
    return await action;
  } catch (error) {
    // ENODEV: a cgroup removed while its file was open. ESRCH: a process that ended while it was read.
    if (['ENOENT', 'ENOTDIR', 'ENODEV', 'ESRCH'].includes(codeOf(error) ?? '')) return otherwise;
    throw error;
  }
}
