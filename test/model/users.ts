import type { Mutant } from './mutants.ts';
import { type Draft, type Possible, type State, sourceIsReachable } from './state.ts';

const BEFORE_COMMIT = new Set([
  'send offer',
  'wait for prepared',
  'write frozen',
  'shut',
  'freeze',
  'dump',
  'send restore',
  'wait for poised',
  'write committed',
]);

/** What people do, or do not. */
export function users(state: State, can: Possible, mutant?: Mutant) {
  const { sourceDoes, sourceEntry, targetEntry } = state;
  const user = (label: string, change: (draft: Draft) => void) => can.add('user', label, change);
  if (BEFORE_COMMIT.has(sourceDoes)) {
    user('user: cancels', (draft) => {
      draft.sourceDoes = sourceEntry === 'frozen' ? 'open' : 'send abort';
    });
  }
  if (sourceEntry === 'retained' && sourceDoes === '') {
    user('user: has the kept state dropped', (draft) => {
      const isEarly = mutant === 'drops the kept state before it writes reserved';
      draft.sourceDoes = isEarly ? 'drop' : 'write reserved';
      if (mutant === 'frees the address when the kept state expires') draft.address = 'free';
    });
    user('user: asks for a rollback', (draft) => {
      draft.sourceDoes = 'write reverting';
    });
  }
  if (sourceEntry === 'reverting' && sourceDoes === 'revert') {
    if (mutant === 'starts a rollback before the target has ended its copy') {
      user('source: does not wait', (draft) => {
        draft.sourceDoes = 'start';
      });
    }
  }
  const serves = targetEntry === 'serving' || targetEntry === 'final';
  const lives = serves && state.targetRuns === 'running';
  if (lives) {
    user('owner: removes the pod at the target', (draft) => {
      draft.targetRuns = 'none';
      draft.targetNet = 'none';
      draft.wasRemoved = true;
    });
  }
  // A migration of its own. It begins with a pod that is not being ended.
  if (lives && state.targetNet === 'open' && state.targetDoes === '' && !state.targetReverts) {
    user('target: moves the pod on to a third node', (draft) => {
      draft.targetRuns = 'none';
      draft.targetNet = 'none';
      draft.onward = 'lives';
    });
  }
  if (state.onward === 'lives') {
    if (serves && state.targetDoes === '' && !state.targetReverts) {
      user('target: rolls back to itself what has moved on', (draft) => {
        draft.targetRuns = 'running';
        draft.targetNet = 'open';
        draft.onward = '';
      });
    }
    user('owner: removes the pod on the third node', (draft) => {
      draft.onward = 'over';
      draft.wasRemoved = true;
    });
  }
  // Removed, or moved by a later migration, which nothing hinders once the agent says that this one is over.
  const isBack = sourceDoes === 'tell' || sourceDoes === 'wait for done' || sourceEntry === 'settled';
  if (isBack && sourceIsReachable(state)) {
    user('owner: removes the pod at the source', (draft) => {
      draft.sourceRuns = 'none';
      draft.sourceNet = 'none';
      draft.address = 'free';
      draft.hasLeftSource = true;
      draft.wasRemoved = true;
    });
  }
  if (mutant === 'forgets serving after a day' && targetEntry === 'serving') {
    user('target: forgets, after a day', (draft) => {
      draft.targetEntry = '';
    });
  }
}
