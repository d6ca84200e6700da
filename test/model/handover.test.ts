import { describe, expect, it } from 'vitest';
import { handover } from './handover.ts';
import type { Mutant } from './mutants.ts';
import { ADDRESS, AN_END, GOOD_END, isGood, LEGAL, MEANING, NO_RETURN, ONE_COPY, RULES } from './rules.ts';
import { Space } from './search.ts';
import type { State } from './state.ts';

/** More than any state needs: the search says how many that are. */
const MOST_FAULTS = 20;
/** Enough for every mutant. */
const FAULTS_OF_MUTANTS = 2;

describe('the handover', () => {
  const space = Space.explore(handover(), RULES, { faults: MOST_FAULTS });

  it('is searched to the end, whatever the number of faults', () => {
    const { states, faults, depth } = space;
    console.log(`model of the handover: ${states} states; the farthest takes ${depth} steps, ${faults} of them faults`);
    expect(faults).toBeLessThan(MOST_FAULTS);
    expect(states).toBeGreaterThan(10_000);
  });

  it.each<[string, (state: State) => boolean]>([
    ['moved and kept', ({ sourceEntry, targetEntry }) => sourceEntry === 'retained' && targetEntry === 'serving'],
    [
      'moved, only the address kept',
      ({ sourceEntry, sourceDoes }) => sourceEntry === 'reserved' && sourceDoes === 'watch',
    ],
    ['thawed before the commit', (state) => state.wasThawed && !state.wasPoised && state.sourceEntry === ''],
    ['thawed after the commit', (state) => state.wasThawed && state.sourceEntry === 'settled'],
    ['rolled back after success', (state) => state.wasEnded && state.sourceRuns === 'running'],
    ['a rollback refused', ({ targetEntry }) => targetEntry === 'final'],
    ['lost with a machine', (state) => state.wasLost && !state.wasRemoved && state.sourceRuns === 'none'],
    ['removed where it went', (state) => state.wasRemoved && state.address === 'free'],
  ])('gets there: %s', (_, isWanted) => {
    expect(space.has(isWanted)).toBe(true);
  });

  it.each([ONE_COPY, NO_RETURN, MEANING, ADDRESS, LEGAL])('%s', (rule) => {
    expect(space.violation(rule)?.trace).toBeUndefined();
  });

  it(GOOD_END, () => {
    expect(space.stuck(GOOD_END, isGood)?.trace).toBeUndefined();
  });

  it(AN_END, () => {
    expect(space.endless(AN_END)?.trace).toBeUndefined();
  });
});

describe('the search finds what is wrong when', () => {
  it.each<[Mutant, string]>([
    ['runs before it writes resuming', MEANING],
    ['serves without having written resuming', LEGAL],
    ['sends the commit before it is durable', ONE_COPY],
    ['commits before poised', MEANING],
    ['thaws when the peer cannot be reached', ONE_COPY],
    ['gives up when the peer cannot be reached', GOOD_END],
    ['forgets serving after a day', ONE_COPY],
    ['says failed before the placeholder is removed', MEANING],
    ['opens before it has verified', NO_RETURN],
    ['opens before it writes serving', NO_RETURN],
    ['rolls back what serves when its network cannot be opened', NO_RETURN],
    ['never gets over a pod that is removed before its network is open', GOOD_END],
    ['serves after a crash without having looked', GOOD_END],
    ['starts a rollback before the target has ended its copy', ONE_COPY],
    ['thaws a committed source after a crash', ONE_COPY],
    ['says done before the source has ended', ONE_COPY],
    ['empties its images at a restart', MEANING],
    ['drops the kept state before it writes reserved', GOOD_END],
    ['removes the sandbox before its address is reserved', ADDRESS],
    ['frees the address when the kept state expires', ADDRESS],
    ['says gone of a pod that has moved on', ADDRESS],
    ['ends a rollback for a pod that has moved on', ONE_COPY],
    ['forgets that it has refused a rollback', GOOD_END],
    ['does not write settled', NO_RETURN],
    ['removes its entry before it says done', GOOD_END],
    ['waits when the target knows nothing', GOOD_END],
    ['asks for a rollback again when it was refused', AN_END],
  ])('a side %s: %s', (mutant, rule) => {
    const space = Space.explore(handover(mutant), RULES, { faults: FAULTS_OF_MUTANTS, until: rule });
    const found = {
      [GOOD_END]: () => space.stuck(GOOD_END, isGood),
      [AN_END]: () => space.endless(AN_END),
    }[rule];
    const violation = found === undefined ? space.violation(rule) : found();
    expect(violation?.trace).toMatch(/^.*, after\n {3}1 {2}source: sends offer\n/);
  });
});
