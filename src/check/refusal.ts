import { checkDumpable, checkMovable } from '../checkpoint/preflight.ts';
import { GantryError } from '../errors.ts';
import type { ContainerDetail, Cri } from '../runtime/cri.ts';
import { type Finding, VERDICTS, type Verdict, verdictOf } from './finding.ts';

/** What gantry checkpoint and gantry migrate would say of it today. */
export interface Refusal {
  readonly checkpoint: string;
  readonly migrate: string;
  readonly isManaged: boolean;
}

/** Errors: NOT_RUNNING, RUNTIME_UNAVAILABLE. */
export async function refusalOf(cri: Cri, containers: readonly ContainerDetail[]): Promise<Refusal> {
  const refused = async (...doing: Promise<void>[]) => {
    const outcomes = await Promise.allSettled(doing);
    const errors = outcomes.flatMap((one) => (one.status === 'rejected' ? [GantryError.from(one.reason)] : []));
    const own = errors.find(({ reason }) => reason === 'NOT_RUNNING' || reason === 'RUNTIME_UNAVAILABLE');
    if (own !== undefined) throw own;
    return errors;
  };
  const [checkpoint] = await refused(...containers.map(checkDumpable));
  const [migrate] = await refused(checkMovable(containers, cri, true));
  const asked = await refused(checkMovable(containers, cri, false));
  return {
    checkpoint: checkpoint?.message ?? '',
    migrate: migrate?.message ?? '',
    isManaged: asked.some(({ reason }) => reason === 'MANAGED_BY_KUBELET'),
  };
}

/** Pure: a refusal that no other finding accounts for: this never says better than what Gantry itself would do. */
export function unexplained(findings: readonly Finding[], { checkpoint, migrate }: Refusal): Finding[] {
  const isExplained = (severity: Verdict) => VERDICTS.indexOf(verdictOf(findings)) >= VERDICTS.indexOf(severity);
  const refusal = (verb: string, severity: Verdict, seen: string): Finding => ({
    id: `refused-by-${verb}`,
    severity,
    seen,
    why: `gantry ${verb} of this version refuses it before it touches anything`,
    todo: 'docs/architecture.md says what is not done yet',
  });
  if (checkpoint !== '') return isExplained('cold') ? [] : [refusal('checkpoint', 'cold', checkpoint)];
  return migrate === '' || isExplained('cold') ? [] : [refusal('migrate', 'warm', migrate)];
}
