import type { Mutant } from './mutants.ts';
import type { Draft, Possible, State } from './state.ts';

/** What fails. Reboots take processes and networks with them; an agent's death leaves them. */
export function faults(state: State, can: Possible, mutant?: Mutant) {
  const fault = (label: string, change: (draft: Draft) => void) => can.add('fault', label, change);
  const holder = holderOf(state);

  if (state.sourceDoes !== 'be restarted') {
    for (const cut of breaks(state.toTarget)) {
      for (const orphan of orphans(state)) {
        const left = `${told(cut, 'target')}${orphan === '' ? '' : `, "${orphan}" will arrive`}`;
        const crash = (draft: Draft) => {
          draft.sourceDoes = 'be restarted';
          draft.toSource = [];
          draft.toTarget = cut;
          draft.broken = true;
          draft.query = '';
          draft.orphan = orphan;
          if (draft.sourceRuns === 'held') draft.sourceRuns = 'none';
        };
        fault(`FAULT: the source's agent dies${left}`, crash);
        fault(`FAULT: the source is rebooted${left}`, (draft) => {
          draft.wasLost ||= holder === 'source';
          crash(draft);
          draft.sourceRuns = 'none';
          draft.sourceNet = 'none';
        });
      }
    }
  }
  if (state.targetDoes !== 'be restarted') {
    for (const cut of breaks(state.toSource)) {
      const left = told(cut, 'source');
      const crash = (draft: Draft) => {
        draft.targetDoes = 'be restarted';
        draft.targetRecovers = false;
        draft.targetReverts = '';
        draft.toTarget = [];
        draft.toSource = cut;
        draft.broken = true;
        draft.orphan = '';
        if (draft.query.startsWith('?') || draft.query.startsWith('~')) draft.query = '=unreachable';
        if (draft.targetRuns === 'held') draft.targetRuns = 'none';
      };
      fault(`FAULT: the target's agent dies${left}`, crash);
      fault(`FAULT: the target is rebooted${left}`, (draft) => {
        draft.wasLost ||= holder === 'target';
        crash(draft);
        draft.targetRuns = 'none';
        draft.targetNet = 'none';
      });
    }
  }
  if (state.link === 'up') {
    for (const toTarget of breaks(state.toTarget)) {
      for (const toSource of breaks(state.toSource)) {
        for (const orphan of orphans(state)) {
          const left = `${told(toTarget, 'target')}${told(toSource, 'source')}`;
          fault(`FAULT: the network is cut${left}${orphan === '' ? '' : `, "${orphan}" will arrive`}`, (draft) => {
            draft.link = 'down';
            draft.broken = true;
            draft.toTarget = toTarget;
            draft.toSource = toSource;
            draft.orphan = orphan;
            if (draft.query !== '') draft.query = '=unreachable';
          });
        }
      }
    }
  }
  if (mutant === 'rolls back what serves when its network cannot be opened' && state.targetDoes === 'send serving') {
    fault('FAULT: the network is open, but more was to be done', (draft) => {
      draft.targetDoes = 'remove placeholder';
    });
  }
  if (state.sourceDoes === 'dump') {
    fault('FAULT: the dump fails', (draft) => {
      draft.sourceDoes = 'open';
    });
  }
  if (state.sourceRuns === 'held') {
    fault('FAULT: the start of the kept state fails', (draft) => {
      draft.sourceRuns = 'none';
    });
  }
  if (state.targetDoes === 'restore' || (state.targetEntry === 'preparing' && state.targetRuns === 'held')) {
    fault('FAULT: the restore fails', (draft) => {
      draft.targetDoes = 'remove placeholder';
      draft.targetRuns = 'none';
    });
  }
  const mayDie = state.targetRuns === 'released' || state.targetRuns === 'running';
  // Later it is any program that ends.
  const isVerified = ['write serving', 'open', 'send serving'].includes(state.targetDoes);
  if (state.targetEntry === 'resuming' && mayDie && !isVerified) {
    fault('FAULT: the restored processes die', (draft) => {
      draft.targetRuns = 'none';
    });
  }
}

/** What of the messages under way may still arrive when a conversation breaks. */
function breaks(messages: readonly string[]): (readonly string[])[] {
  return Array.from({ length: messages.length + 1 }, (_, length) => messages.slice(0, length));
}

function told(messages: readonly string[], whom: string): string {
  return messages.length === 0 ? '' : `, the ${whom} still gets ${messages.join(', ')}`;
}

/** The questions that may still arrive when nobody waits for their answer any more. An outcome changes nothing. */
function orphans({ query, orphan }: State): string[] {
  const question = query.slice(1);
  const isUnderWay = query.startsWith('?') && (question === 'revert' || question === 'done');
  return [...new Set(isUnderWay ? ['', question, orphan] : [orphan])];
}

/** Whose reboot loses the pod: who could still go on with it. What is kept on a disk is not lost. */
function holderOf(state: State): 'source' | 'target' | undefined {
  if (['serving', 'final'].includes(state.targetEntry) && state.targetRuns !== 'none') return 'target';
  return state.sourceRuns === 'none' ? undefined : 'source';
}
