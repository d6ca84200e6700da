import {
  type Answer,
  afterDeparture,
  afterOutcome,
  afterRevert,
  type SourceState,
  sourceRecovery,
} from '../../src/migrate/protocol.ts';
import type { Mutant } from './mutants.ts';
import type { Draft, Possible, State } from './state.ts';

/** The source's agent. */
export function source(state: State, can: Possible, mutant?: Mutant) {
  const { sourceDoes: does, sourceEntry } = state;
  /** Says what is done next, too. */
  const act = (label: string, next: string, change: (draft: Draft) => void = () => undefined) =>
    can.step(`source: ${label}`, (draft) => {
      draft.sourceDoes = next;
      change(draft);
    });
  const send = (message: string, next: string) =>
    act(`sends ${message}`, next, (draft) => {
      if (!draft.broken) draft.toTarget = [...draft.toTarget, message];
    });
  const receive = (wanted: string, next: string, otherwise: string) => {
    const [message, ...rest] = state.toSource;
    if (message === undefined && !state.broken) return;
    const heard = message ?? 'that the conversation is over';
    act(`hears ${heard}`, message === wanted ? next : otherwise, (draft) => {
      draft.toSource = rest;
    });
  };
  const write = (to: SourceState, next: string, change: (draft: Draft) => void = () => undefined) =>
    act(`writes ${to}`, next, (draft) => {
      draft.sourceEntry = to;
      change(draft);
    });
  const ask = (about: string, next: string) =>
    can.add('poll', `source: asks (${about})`, (draft) => {
      draft.query = `?${about}`;
      draft.sourceDoes = next;
    });
  /** What to do with an answer: to ask again is no progress. */
  const hear = (again: string, next: (answer: Answer) => string) => {
    if (!state.query.startsWith('=')) return;
    const answer = state.query.slice(1);
    const does = next(answer as Answer);
    can.add(does === again ? 'poll' : 'step', `source: hears "${answer}"`, (draft) => {
      draft.query = '';
      draft.sourceDoes = does;
    });
  };
  const failed = sourceEntry === 'frozen' ? 'open' : 'send abort';

  switch (does) {
    // Up to the commit.
    case 'send offer':
      return send('offer', 'wait for prepared');
    case 'wait for prepared':
      return receive('prepared', 'write frozen', failed);
    case 'write frozen':
      return write('frozen', 'shut');
    case 'shut':
      return act('shuts the network', 'freeze', (draft) => {
        if (draft.sourceNet !== 'none') draft.sourceNet = 'shut';
      });
    case 'freeze':
      return act('freezes', 'dump', (draft) => {
        if (draft.sourceRuns !== 'none') draft.sourceRuns = 'frozen';
      });
    case 'dump':
      return act('dumps', 'send restore', (draft) => {
        draft.kept = true;
      });
    case 'send restore':
      return send('restore', mutant === 'commits before poised' ? 'write committed' : 'wait for poised');
    case 'wait for poised':
      if (mutant === 'sends the commit before it is durable') return receive('poised', 'send commit', failed);
      return receive('poised', 'write committed', failed);
    case 'write committed': {
      const isSent = mutant === 'sends the commit before it is durable';
      return write('committed', isSent ? 'wait for serving' : 'send commit');
    }
    case 'send commit': {
      const isLate = mutant === 'sends the commit before it is durable';
      return send('commit', isLate ? 'write committed' : 'wait for serving');
    }

    // Committed.
    case 'wait for serving':
      if (mutant === 'commits before poised' && state.toSource[0] === 'poised') {
        return receive('poised', 'wait for serving', '');
      }
      return receive('serving', afterServing(mutant), 'ask');
    case 'ask':
      return ask('outcome', 'wait for outcome');
    case 'wait for outcome':
      return hear('ask', (answer) => {
        if (mutant === 'thaws when the peer cannot be reached' && answer === 'unreachable') return 'open';
        if (mutant === 'gives up when the peer cannot be reached' && answer === 'unreachable') return '';
        if (mutant === 'waits when the target knows nothing' && answer === 'none') return 'ask';
        return { end: afterServing(mutant), thaw: 'open', ask: 'ask' }[afterOutcome(answer)];
      });

    // The target serves.
    case 'say done early':
      return ask('done', 'wait for early done');
    case 'wait for early done':
      return hear('say done early', (answer) => (answer === 'unreachable' ? 'say done early' : 'reserve'));
    case 'reserve':
      return act('reserves the address', 'end', (draft) => {
        if (draft.address === 'pod') draft.address = 'reserved';
      });
    case 'end':
      return act('ends its processes', 'remove sandbox', (draft) => {
        draft.sourceRuns = 'none';
      });
    case 'remove sandbox': {
      const isEarly = mutant === 'removes the sandbox before its address is reserved';
      return act('removes its sandbox', isEarly ? 'reserve late' : 'write retained', (draft) => {
        draft.sourceNet = 'none';
        if (draft.address === 'pod') draft.address = 'free';
      });
    }
    case 'reserve late':
      return act('reserves the address', 'write retained', (draft) => {
        draft.address = 'reserved';
      });
    case 'write retained':
      return write('retained', '', (draft) => {
        draft.broken = true;
      });

    // What was kept has expired.
    case 'write reserved':
      return write('reserved', 'drop');
    case 'drop':
      return act('drops the kept state', sourceEntry === 'retained' ? 'write reserved' : 'watch', (draft) => {
        draft.kept = false;
      });
    case 'watch':
      return ask('outcome', 'wait for departure');
    case 'wait for departure':
      return hear('watch', (answer) => (afterDeparture(answer) === 'release' ? 'release' : 'watch'));
    case 'release':
      return act('frees the address', 'tell', (draft) => {
        draft.address = 'free';
      });

    // Rollback after the commit.
    case 'revert':
      return ask('revert', 'wait for revert');
    case 'wait for revert':
      return hear('revert', (answer) => {
        const isEager = mutant === 'asks for a rollback again when it was refused';
        if (isEager && answer === 'refused') return 'write retained, ask again';
        return { start: 'start', keep: 'write retained', ask: 'revert' }[afterRevert(answer)];
      });
    case 'write retained, ask again':
      return write('retained', 'write reverting');
    case 'write reverting':
      return write('reverting', 'revert');
    case 'start':
      // By the pod's metadata: what an agent of before has started is found.
      if (state.sourceRuns === 'running') return act('finds the kept state running', 'open again');
      if (!state.kept) return;
      return act('restores the kept state up to its gate, behind a shut network', 'let go', (draft) => {
        draft.sourceRuns = 'held';
        draft.sourceNet = 'shut';
        draft.address = 'pod';
      });
    case 'let go':
      if (state.sourceRuns === 'none') return act('finds that the start failed', 'start');
      return act('lets the kept state run', 'open again', (draft) => {
        draft.sourceRuns = 'running';
      });
    case 'open again':
      return act('opens the network', mutant === 'does not write settled' ? 'tell' : 'write settled', (draft) => {
        if (draft.sourceNet !== 'none') draft.sourceNet = 'open';
      });

    // Thaw: a failure before the commit, or the target's afterwards.
    case 'open':
      return act('opens the network', 'thaw', (draft) => {
        if (draft.sourceNet !== 'none') draft.sourceNet = 'open';
      });
    case 'thaw':
      return act('thaws', sourceEntry === 'frozen' ? 'forget' : 'write settled', (draft) => {
        if (draft.sourceRuns === 'frozen') draft.sourceRuns = 'running';
        draft.wasThawed = true;
      });
    case 'forget':
      return act('removes its entry', 'send abort', (draft) => {
        draft.sourceEntry = '';
        draft.kept = false;
      });
    case 'write settled':
      if (mutant === 'removes its entry before it says done') {
        return act('removes its entry', 'tell', (draft) => {
          draft.sourceEntry = '';
          draft.kept = false;
        });
      }
      return write('settled', 'tell', (draft) => {
        draft.kept = false;
      });
    case 'send abort':
      return act('sends abort and closes', '', (draft) => {
        if (!draft.broken) draft.toTarget = [...draft.toTarget, 'abort'];
        draft.broken = true;
      });

    // Over.
    case 'tell':
      return ask('done', 'wait for done');
    case 'wait for done':
      return hear('tell', (answer) => {
        if (answer === 'unreachable') return 'tell';
        return sourceEntry === '' ? '' : 'remove entry';
      });
    case 'remove entry':
      return act('removes its entry', '', (draft) => {
        draft.sourceEntry = '';
        draft.kept = false;
      });

    case 'be restarted':
      return act('is restarted', afterRestart(sourceEntry, mutant), (draft) => {
        if (mutant === 'empties its images at a restart') draft.kept = false;
      });
  }
}

function afterServing(mutant?: Mutant): string {
  if (mutant === 'says done before the source has ended') return 'say done early';
  return mutant === 'removes the sandbox before its address is reserved' ? 'end' : 'reserve';
}

function afterRestart(entry: SourceState | '', mutant?: Mutant): string {
  if (entry === '') return '';
  if (entry === 'committed' && mutant === 'thaws a committed source after a crash') return 'open';
  const what = sourceRecovery(entry);
  const does = { thaw: 'open', settle: 'ask', keep: '', watch: 'drop', revert: 'revert', tell: 'tell', 'let go': '' };
  return does[what];
}
