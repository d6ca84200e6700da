/**
 * The decisions of the handover (docs/handover.md), without the work: what may be written after what, what a source does
 * with an answer, what each side does with its entry after a crash. The model in test/model searches through these.
 */

/** `paused` is a checkpoint's, all others are a migration's, too. */
export type SourceState = 'frozen' | 'paused' | 'committed' | 'retained' | 'reserved' | 'reverting' | 'settled';
export type TargetState = 'preparing' | 'resuming' | 'serving' | 'final' | 'failed' | 'ended';
export type Role = 'source' | 'target' | 'restore' | 'output';

/** What each state may be followed by; '' is no entry: before the first, and after the last. */
export const NEXT: Record<Role, Record<string, readonly string[]>> = {
  source: {
    '': ['frozen'],
    frozen: ['committed', 'paused', ''],
    paused: [''],
    // A checkpoint's container is ended, and the entry removed.
    committed: ['retained', 'settled', ''],
    retained: ['reserved', 'reverting'],
    reserved: [''],
    reverting: ['retained', 'settled'],
    settled: [''],
  },
  target: {
    '': ['preparing'],
    preparing: ['preparing', 'resuming', 'failed', ''],
    resuming: ['serving', 'failed'],
    serving: ['final', 'ended', ''],
    final: [''],
    failed: [''],
    ended: [''],
  },
  restore: { '': ['creating'], creating: [''] },
  output: { '': ['writing'], writing: [''] },
};

export function mayFollow(role: Role, from: string, to: string): boolean {
  return NEXT[role][from]?.includes(to) ?? false;
}

/** `gone`: it served, and nothing of the pod is left. `refused`: it has moved on, and is not this target's to end. */
export type Answer = 'none' | TargetState | 'gone' | 'refused' | 'unreachable';

/** What a committed source does when the target tells the outcome. */
export function afterOutcome(answer: Answer): 'end' | 'thaw' | 'ask' {
  if (answer === 'serving' || answer === 'gone') return 'end';
  return answer === 'failed' || answer === 'none' ? 'thaw' : 'ask';
}

/** What a source that keeps the address does then. `none`: the target has heard "done" already. */
export function afterDeparture(answer: Answer): 'release' | 'ask' {
  return answer === 'gone' || answer === 'none' ? 'release' : 'ask';
}

/** What a source does when it has asked the target to end its copy. `keep`: there is no rollback, nothing has changed. */
export function afterRevert(answer: Answer): 'start' | 'keep' | 'ask' {
  if (answer === 'ended') return 'start';
  return answer === 'refused' || answer === 'none' ? 'keep' : 'ask';
}

/** What a restarted agent does with a source's entry. `watch`: ask until the pod has left; `tell`: say "done". */
export function sourceRecovery(
  state: SourceState,
): 'thaw' | 'let go' | 'settle' | 'keep' | 'watch' | 'revert' | 'tell' {
  switch (state) {
    case 'frozen':
      return 'thaw';
    case 'paused':
      return 'let go';
    case 'committed':
      return 'settle';
    case 'retained':
      return 'keep';
    case 'reserved':
      return 'watch';
    case 'reverting':
      return 'revert';
    case 'settled':
      return 'tell';
  }
}

/**
 * What a restarted agent does with a target's entry. `forget`: remove the pod, then the entry; `fail`: remove the pod,
 * then say so; `serve`: write so, then open the network; `open`: it is written.
 *
 * @param allRuns every process of every container is there. Of no matter but in `resuming`
 */
export function targetRecovery(state: TargetState, allRuns: boolean): 'forget' | 'serve' | 'fail' | 'open' | 'keep' {
  switch (state) {
    case 'preparing':
      return 'forget';
    case 'resuming':
      return allRuns ? 'serve' : 'fail';
    case 'serving':
    case 'final':
      return 'open';
    case 'failed':
    case 'ended':
      return 'keep';
  }
}

/** Where a pod is that was moved to this target: moved on, or on its way, when the node is a source of it. */
export type Whereabouts = 'here' | 'moved on' | 'gone';

/** What a target says when it is asked for the outcome. A pod that has moved on still has its address. */
export function outcomeOf(state: TargetState | undefined, where: Whereabouts): Answer {
  if (state !== 'serving' && state !== 'final') return state ?? 'none';
  return where === 'gone' ? 'gone' : 'serving';
}

/**
 * What a target does when it is asked to end its copy. `refuse`: write *final* first, because that question may arrive
 * again, late, when the pod is back.
 */
export function onRevert(state: TargetState | undefined, where: Whereabouts): 'end' | 'refuse' | Answer {
  if (state === 'final') return 'refused';
  if (state !== 'serving') return state ?? 'none';
  return where === 'moved on' ? 'refuse' : 'end';
}

/** Whether a target forgets its entry when the source says "done": never what is still under way. */
export function mayForget(state: TargetState): boolean {
  return state !== 'preparing' && state !== 'resuming';
}
