/** From the best to the worst; docs/check.md says what each means. */
export const VERDICTS = ['hot', 'warm', 'cold', 'no'] as const;
export type Verdict = (typeof VERDICTS)[number];

/** One thing that was found, and what it means for a move. */
export interface Finding {
  /** Stable, for programs; docs/check.md has a line for each. */
  readonly id: string;
  /** The best verdict that is possible with it; "hot" is a remark. */
  readonly severity: Verdict;
  readonly seen: string;
  readonly why: string;
  readonly todo: string;
}

/** The worst that any finding forces; hot when there is none. */
export function verdictOf(findings: readonly Pick<Finding, 'severity'>[]): Verdict {
  return worst(findings.map(({ severity }) => severity));
}

export function worst(verdicts: readonly Verdict[]): Verdict {
  return VERDICTS[Math.max(0, ...verdicts.map((verdict) => VERDICTS.indexOf(verdict)))] ?? 'hot';
}

/** The first few of a list, and how many more there are. */
export function some(items: readonly string[], most = 4): string {
  const shown = items.slice(0, most).join(', ');
  return items.length > most ? `${shown} and ${items.length - most} more` : shown;
}

export function mebibytes(bytes: number): string {
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
