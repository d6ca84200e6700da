import { describe, expect, it } from 'vitest';
import type { SourceEntry } from './journal.ts';
import { overdue } from './retain.ts';

const entry = (operation: string, until: number, bytes: number, state: SourceEntry['state'] = 'retained') =>
  ({ role: 'source', operation, state, retained: { archive: `/${operation}`, until, bytes } }) as SourceEntry;

const namesOf = (entries: readonly SourceEntry[]) => entries.map(({ operation }) => operation);

describe('overdue', () => {
  it('names those whose time is over', () => {
    const entries = [entry('early', 100, 1), entry('now', 200, 1), entry('late', 300, 1)];
    expect(namesOf(overdue(entries, 200, 0))).toEqual(['now', 'early']);
  });

  it('names the oldest while all together are too large', () => {
    const entries = [entry('oldest', 500, 40), entry('middle', 600, 40), entry('newest', 700, 40)];
    expect(namesOf(overdue(entries, 0, 120))).toEqual([]);
    expect(namesOf(overdue(entries, 0, 119))).toEqual(['oldest']);
    expect(namesOf(overdue(entries, 0, 79))).toEqual(['middle', 'oldest']);
  });

  it('leaves alone what is being brought back', () => {
    expect(overdue([entry('back', 100, 1, 'reverting')], 200, 0)).toEqual([]);
  });
});
