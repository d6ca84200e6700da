import { mayForget, onRevert, outcomeOf, type Whereabouts } from '../../src/migrate/protocol.ts';
import type { Mutant } from './mutants.ts';
import type { Kind } from './search.ts';
import type { Draft, Possible, State } from './state.ts';

/** Questions on connections of their own, and how the target answers. */
export function queries(state: State, can: Possible, mutant?: Mutant) {
  const { query, orphan } = state;
  const listens = state.targetDoes !== 'be restarted' && !state.targetRecovers;
  if (listens && orphan !== '') take(state, can, orphan, 'orphan', mutant);
  if (orphan !== '') {
    can.step(`a late "${orphan}" is lost`, (draft) => {
      draft.orphan = '';
    });
  }
  if (query.startsWith('?')) {
    if (listens && state.link === 'up') take(state, can, query.slice(1), 'query', mutant);
    else {
      can.add('poll', 'source: cannot reach the target', (draft) => {
        draft.query = '=unreachable';
      });
    }
  }
  if (state.link === 'down') {
    can.step('the network comes back', (draft) => {
      draft.link = 'up';
    });
  }
}

function take(state: State, can: Possible, question: string, from: 'query' | 'orphan', mutant?: Mutant) {
  const { targetEntry } = state;
  const entry = targetEntry === '' ? undefined : targetEntry;
  let where = whereabouts(state);
  const late = from === 'orphan' ? 'late ' : '';
  const answer = (text: string, kind: Kind = 'step', change: (draft: Draft) => void = () => undefined) =>
    can.add(kind, `target: answers a ${late}"${question}" with "${text}"`, (draft) => {
      draft[from] = from === 'query' ? `=${text}` : '';
      change(draft);
    });
  switch (question) {
    case 'outcome':
      if (where === 'moved on' && mutant === 'says gone of a pod that has moved on') where = 'gone';
      return answer(outcomeOf(entry, where), 'poll');
    case 'done':
      return answer('ok', 'step', (draft) => {
        if (entry !== undefined && mayForget(entry)) draft.targetEntry = '';
      });
    case 'revert': {
      if (where === 'moved on' && mutant === 'ends a rollback for a pod that has moved on') where = 'gone';
      const what = onRevert(entry, where);
      if (what !== 'end' && what !== 'refuse') return answer(what, 'poll');
      if (what === 'refuse' && mutant === 'forgets that it has refused a rollback') return answer('refused');
      can.step(`target: takes a ${late}"revert"`, (draft) => {
        draft[from] = from === 'query' ? '~revert' : '';
        // One at a time: who asks again waits for the one that is under way.
        if (draft.targetReverts === '') draft.targetReverts = what === 'end' ? 'remove' : 'refuse';
      });
    }
  }
}

function whereabouts({ targetNet, onward }: State): Whereabouts {
  if (targetNet !== 'none') return 'here';
  return onward === 'lives' ? 'moved on' : 'gone';
}
