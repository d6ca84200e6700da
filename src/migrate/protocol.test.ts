import { describe, expect, it } from 'vitest';
import {
  type Answer,
  afterDeparture,
  afterOutcome,
  afterRevert,
  mayFollow,
  mayForget,
  NEXT,
  onRevert,
  outcomeOf,
  type TargetState,
  targetRecovery,
} from './protocol.ts';

const TARGET_STATES = Object.keys(NEXT.target).filter((state) => state !== '') as TargetState[];

// What follows from these together is searched in test/model.
describe('protocol', () => {
  it('leads from every state to the end, and nowhere that is not in the table', () => {
    for (const next of Object.values(NEXT)) {
      for (const [state, followers] of Object.entries(next)) {
        expect(followers, state).not.toHaveLength(0);
        for (const follower of followers) expect(Object.keys(next)).toContain(follower);
      }
    }
    expect(mayFollow('source', 'retained', 'committed')).toBe(false);
    expect(mayFollow('target', 'serving', 'failed')).toBe(false);
  });

  it.each<[Answer, ReturnType<typeof afterOutcome>, ReturnType<typeof afterDeparture>, ReturnType<typeof afterRevert>]>(
    [
      ['none', 'thaw', 'release', 'keep'],
      ['preparing', 'ask', 'ask', 'ask'],
      ['resuming', 'ask', 'ask', 'ask'],
      ['serving', 'end', 'ask', 'ask'],
      ['gone', 'end', 'release', 'ask'],
      ['failed', 'thaw', 'ask', 'ask'],
      ['ended', 'ask', 'ask', 'start'],
      ['refused', 'ask', 'ask', 'keep'],
      ['unreachable', 'ask', 'ask', 'ask'],
    ],
  )('"%s": committed: %s; reserved: %s; reverting: %s', (answer, committed, reserved, reverting) => {
    expect([afterOutcome(answer), afterDeparture(answer), afterRevert(answer)]).toEqual([
      committed,
      reserved,
      reverting,
    ]);
  });

  it('a restarted target looks at what runs only while it is resuming', () => {
    for (const state of TARGET_STATES.filter((one) => one !== 'resuming')) {
      expect(targetRecovery(state, true)).toBe(targetRecovery(state, false));
    }
    expect([true, false].map((allRuns) => targetRecovery('resuming', allRuns))).toEqual(['serve', 'fail']);
  });

  it('an outcome is kept after a crash until the source says "done"', () => {
    const kept = TARGET_STATES.filter((state) => ['open', 'keep'].includes(targetRecovery(state, true)));
    expect(kept).toEqual(TARGET_STATES.filter(mayForget));
  });

  it('tells of a pod that has moved on that it serves, and refuses to roll it back for good', () => {
    expect((['here', 'moved on', 'gone'] as const).map((where) => outcomeOf('serving', where))).toEqual([
      'serving',
      'serving',
      'gone',
    ]);
    expect(onRevert('serving', 'moved on')).toBe('refuse');
    expect(onRevert('final', 'here')).toBe('refused');
    expect(onRevert('serving', 'gone')).toBe('end');
    expect(onRevert(undefined, 'gone')).toBe('none');
  });
});
