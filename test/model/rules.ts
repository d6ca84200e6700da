import { mayFollow } from '../../src/migrate/protocol.ts';
import type { Rule } from './search.ts';
import { living, type State, sourceIsReachable, targetIsReachable } from './state.ts';

export const ONE_COPY = 'never two copies that can be reached';
export const NO_RETURN = 'who was left behind never runs again';
export const MEANING = 'every state means what it says';
export const ADDRESS = 'an address is never free while the pod that moved lives';
export const LEGAL = 'only legal steps are written';
export const GOOD_END = 'a good end can always be reached';
export const AN_END = 'every run without further faults comes to an end';

export const RULES: readonly Rule<State>[] = [
  {
    name: ONE_COPY,
    state: (state) => (living(state) > 1 ? 'two copies can be reached' : undefined),
  },
  {
    name: NO_RETURN,
    state: (state) => {
      const isOver = state.wasEnded && state.targetRuns === 'none' && state.onward !== 'lives';
      const runs = state.sourceRuns === 'running';
      if (state.wasReachable && runs && !isOver) return 'the source runs again after the target could be reached';
      if (state.wasThawed && targetIsReachable(state)) return 'the target can be reached after the source was thawed';
      if (state.hasLeftSource && state.sourceRuns !== 'none') return 'a pod comes back that had left the source';
      if (state.wasRemoved && !state.wasEnded && living(state) > 0) return 'a pod lives that its owner has removed';
      return undefined;
    },
  },
  {
    name: MEANING,
    state: (state) => {
      const { sourceEntry, targetEntry, targetRuns, sourceRuns } = state;
      const isThere = targetRuns !== 'none' || state.targetNet !== 'none';
      if (targetEntry === 'preparing' && targetRuns !== 'none' && targetRuns !== 'held')
        return 'it runs while preparing';
      if (targetEntry === 'resuming' && state.targetNet === 'open') return 'its network is open while resuming';
      if ((targetEntry === 'failed' || targetEntry === 'ended') && isThere)
        return `something is left of what has ended`;
      if (sourceEntry === 'committed' && !state.wasPoised) return 'committed, and the target was never poised';
      if (sourceEntry === 'retained' && !state.kept) return 'retained, and the state is not there';
      if ((sourceEntry === 'retained' || sourceEntry === 'reserved') && sourceRuns !== 'none')
        return 'the source is there';
      return undefined;
    },
  },
  {
    name: ADDRESS,
    state: (state) => {
      const lives = targetIsReachable(state) || state.onward === 'lives';
      return lives && state.address === 'free' ? 'its address is free on the source' : undefined;
    },
  },
  {
    name: LEGAL,
    step: (from, to) => {
      const isSame = from.sourceEntry === to.sourceEntry && from.targetEntry === to.targetEntry;
      if (isSame) return undefined;
      for (const [role, before, after] of [
        ['source', from.sourceEntry, to.sourceEntry],
        ['target', from.targetEntry, to.targetEntry],
      ] as const) {
        if (before !== after && !mayFollow(role, before, after))
          return `the ${role} goes from "${before}" to "${after}"`;
      }
      return undefined;
    },
  },
];

/**
 * Both agents are at rest, exactly one copy lives (none only after its owner removed it or a reboot lost it), and nothing is
 * left behind: no entry, no placeholder, no address that nobody has.
 */
export function isGood(state: State): boolean {
  const { sourceDoes, sourceEntry, targetEntry, address, onward } = state;
  if (state.link !== 'up' || state.targetDoes !== '' || state.targetRecovers || state.targetReverts !== '')
    return false;
  if (state.query !== '' || state.orphan !== '') return false;
  const lives = living(state);
  if (lives === 0 && !state.wasRemoved && !state.wasLost) return false;
  const isHeld =
    (sourceEntry === 'retained' && sourceDoes === '') || (sourceEntry === 'reserved' && sourceDoes === 'watch');
  const serves = targetEntry === 'serving' || targetEntry === 'final';
  if (isHeld) return serves && address === 'reserved' && state.sourceRuns === 'none';
  if (sourceDoes !== '' || sourceEntry !== '' || targetEntry !== '' || state.targetNet !== 'none') return false;
  // Nothing is known any more: it lives here, or nowhere.
  if (onward === 'lives' || state.sourceRuns === 'frozen') return false;
  return lives === 0 || (sourceIsReachable(state) && address === 'pod');
}
