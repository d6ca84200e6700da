import { type TargetState, targetRecovery } from '../../src/migrate/protocol.ts';
import type { Mutant } from './mutants.ts';
import type { Draft, Possible, State } from './state.ts';

/** The target's agent, and its kernel. */
export function target(state: State, can: Possible, mutant?: Mutant) {
  const { targetDoes: does, targetEntry } = state;
  const act = (label: string, next: string, change: (draft: Draft) => void = () => undefined) =>
    can.step(`target: ${label}`, (draft) => {
      draft.targetDoes = next;
      change(draft);
      if (next === '') draft.targetRecovers = false;
    });
  const send = (message: string, next: string) =>
    act(`sends ${message}`, next, (draft) => {
      if (!draft.broken) draft.toSource = [...draft.toSource, message];
    });
  const receive = (wanted: string, next: string) => {
    const [message, ...rest] = state.toTarget;
    if (message === undefined && !state.broken) return;
    const failed = targetEntry === '' ? '' : 'remove placeholder';
    act(`hears ${message ?? 'that the conversation is over'}`, message === wanted ? next : failed, (draft) => {
      draft.toTarget = rest;
    });
  };
  const write = (to: TargetState, next: string) =>
    act(`writes ${to}`, next, (draft) => {
      draft.targetEntry = to;
    });
  const open = (draft: Draft) => {
    // It may have been removed since.
    if (draft.targetNet !== 'none') draft.targetNet = 'open';
  };

  // The kernel's part: it needs no agent.
  if (state.targetRuns === 'released') {
    can.step('target: the processes run', (draft) => {
      draft.targetRuns = 'running';
    });
  }
  if (does !== 'be restarted') {
    if (state.targetReverts === 'remove') {
      can.step('target: removes its copy for the rollback', (draft) => {
        draft.targetRuns = 'none';
        draft.targetNet = 'none';
        draft.targetReverts = 'write';
      });
    } else if (state.targetReverts === 'write') {
      can.step('target: writes ended', (draft) => {
        draft.targetEntry = 'ended';
        draft.wasEnded = true;
        draft.targetReverts = '';
        if (draft.query === '~revert') draft.query = '=ended';
      });
    } else if (state.targetReverts === 'refuse') {
      can.step('target: writes final', (draft) => {
        draft.targetEntry = 'final';
        draft.targetReverts = '';
        if (draft.query === '~revert') draft.query = '=refused';
      });
    }
  }

  switch (does) {
    case 'wait for offer':
      return receive('offer', 'write preparing');
    case 'write preparing':
      return write('preparing', 'make placeholder');
    case 'make placeholder':
      return act('makes the placeholder, shut', 'send prepared', (draft) => {
        draft.targetNet = 'shut';
      });
    case 'send prepared':
      return send('prepared', 'wait for restore');
    case 'wait for restore':
      return receive('restore', 'restore');
    case 'restore':
      return act('restores up to the gate', 'send poised', (draft) => {
        draft.targetRuns = 'held';
        draft.wasPoised = true;
      });
    case 'send poised':
      return send('poised', 'wait for commit');
    case 'wait for commit': {
      const isEarly = mutant === 'runs before it writes resuming';
      const skips = mutant === 'serves without having written resuming';
      return receive('commit', isEarly || skips ? 'release' : 'write resuming');
    }
    case 'write resuming':
      return write('resuming', mutant === 'runs before it writes resuming' ? 'verify' : 'release');
    case 'release': {
      const next = mutant === 'opens before it has verified' ? 'open early' : 'verify';
      return act('lets it run', mutant === 'runs before it writes resuming' ? 'write resuming' : next, (draft) => {
        draft.targetRuns = draft.targetRuns === 'held' ? 'released' : 'none';
      });
    }
    case 'open early':
      return act('opens the network', mutant === 'opens before it writes serving' ? 'write serving' : 'verify', open);
    case 'verify': {
      if (state.targetRuns === 'released') return;
      if (state.targetRuns !== 'running') return act('finds that not all of it runs', 'remove placeholder');
      const isEarly = mutant === 'opens before it writes serving';
      return act('finds that all of it runs', isEarly ? 'open early' : 'write serving');
    }
    case 'write serving':
      return write('serving', 'open');
    case 'open':
      if (mutant === 'never gets over a pod that is removed before its network is open') {
        if (state.targetNet === 'none') return;
      }
      return act('opens the network', 'send serving', open);
    case 'send serving':
      return send('serving', '');

    case 'remove placeholder': {
      if (mutant === 'says failed before the placeholder is removed' && targetEntry === 'resuming') {
        return write('failed', 'remove placeholder');
      }
      const next = targetEntry === 'resuming' ? 'write failed' : 'remove entry';
      return act('removes the placeholder', targetEntry === 'failed' ? 'send failed' : next, (draft) => {
        draft.targetRuns = 'none';
        draft.targetNet = 'none';
      });
    }
    case 'write failed':
      return write('failed', 'send failed');
    case 'remove entry':
      return act('removes its entry', 'send failed', (draft) => {
        draft.targetEntry = '';
      });
    case 'send failed':
      return act('sends failed and closes', '', (draft) => {
        if (!draft.broken) draft.toSource = [...draft.toSource, 'failed'];
        draft.broken = true;
      });

    case 'be restarted': {
      let next = '';
      if (targetEntry !== '') {
        const isBlind = mutant === 'serves after a crash without having looked';
        const what = targetRecovery(targetEntry, state.targetRuns === 'running' || isBlind);
        const remove = 'remove placeholder';
        next = { forget: remove, fail: remove, serve: 'write serving', open: 'open', keep: '' }[what];
      }
      return act('is restarted, ends restores that were under way', next, (draft) => {
        if (draft.targetRuns === 'released') draft.targetRuns = 'none';
        draft.targetRecovers = next !== '';
      });
    }
  }
}
