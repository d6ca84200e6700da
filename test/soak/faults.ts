/** `restarted` is killed again and again; `steady` runs from the beginning to the end. */
export const RELAYS = ['restarted', 'steady'] as const;
export type RelayName = (typeof RELAYS)[number];

/** Something that the soak did on purpose. All times are those of `performance.now()`. */
export type Fault = RelayFault | RuntimeFault;

export interface RelayFault {
  /** SIGKILL or SIGTERM. */
  readonly kind: 'relay-killed' | 'relay-stopped';
  readonly relay: RelayName;
  /** Just before the signal was sent. */
  readonly at: number;
  /** When its supervisor saw the process end. */
  gone?: number;
  /** When the next one said that it had started. */
  back?: number;
}

export interface RuntimeFault {
  readonly kind: 'containerd-killed';
  readonly at: number;
  /** When its process was no more. */
  gone?: number;
  /** When it took connections again. */
  accepting?: number;
  /** When it answered a call that was made directly. */
  answering?: number;
  /** How late the soak's own event loop was meanwhile, in milliseconds. */
  clockLateMs?: number;
}

/** When all was well again; undefined until then. */
export function overAt(fault: Fault): number | undefined {
  return fault.kind === 'containerd-killed' ? fault.answering : fault.back;
}

/** The fault whose beginning is nearest to a moment, and how long after it the moment is (negative: before). */
export function nearestFault(moment: number, faults: readonly Fault[]): { fault: Fault; afterMs: number } | undefined {
  const distance = (fault: Fault) => Math.abs(moment - fault.at);
  const fault = faults.reduce<Fault | undefined>(
    (nearest, each) => (nearest === undefined || distance(each) < distance(nearest) ? each : nearest),
    undefined,
  );
  return fault && { fault, afterMs: moment - fault.at };
}
