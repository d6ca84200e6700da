import { describe, expect, it } from 'vitest';
import { type Kind, type Model, Space } from './search.ts';

/** A graph, as edges of letters. */
function graph(...edges: [from: string, to: string, kind?: Kind][]): Model<string> {
  return {
    initial: 'a',
    key: (state) => state,
    steps: (state) =>
      edges
        .filter(([from]) => from === state)
        .map(([from, to, kind = 'step']) => ({ label: `${from}${to}`, kind, next: to })),
  };
}

const noZ = [{ name: 'no z', state: (state: string) => (state === 'z' ? 'it is z' : undefined) }];

describe('Space', () => {
  it('tells the run with the fewest faults, and of those the shortest', () => {
    const model = graph(['a', 'z', 'fault'], ['a', 'b'], ['b', 'c'], ['c', 'd'], ['d', 'z'], ['b', 'd', 'user']);
    const space = Space.explore(model, noZ, { faults: 1 });
    expect(space.violation('no z')?.trace).toBe('no z: it is z, after\n   1  ab\n   2  bd\n   3  dz\n   =  "z"');
    expect([space.states, space.faults, space.depth]).toEqual([5, 0, 3]);
  });

  it('keeps to the number of faults', () => {
    const model = graph(['a', 'b', 'fault'], ['b', 'z', 'fault']);
    expect(Space.explore(model, noZ, { faults: 1 }).violation('no z')).toBeUndefined();
    expect(Space.explore(model, noZ, { faults: 2 }).violation('no z')?.trace).toContain('2  bz');
  });

  it('tells the step that breaks a rule, also to a state that is known', () => {
    const rule = { name: 'no way back', step: (from: string, to: string) => (from > to ? 'back' : undefined) };
    const { trace } =
      Space.explore(graph(['a', 'b'], ['b', 'a']), [rule], { faults: 0 }).violation('no way back') ?? {};
    expect(trace).toBe('no way back: back, after\n   1  ab\n   2  ba\n   =  "b"');
  });

  it('finds what only a fault or a user would lead out of', () => {
    const isGood = (state: string) => state === 'c';
    const free = Space.explore(graph(['a', 'b'], ['b', 'c']), [], { faults: 1 });
    expect(free.stuck('stuck', isGood)).toBeUndefined();
    for (const kind of ['user', 'fault'] as const) {
      const space = Space.explore(graph(['a', 'b'], ['b', 'c', kind], ['a', 'c']), [], { faults: 1 });
      expect(space.stuck('stuck', isGood)?.trace).toContain('1  ab\n   =  "b"');
    }
  });

  it('finds cycles of steps, and lets questions be asked again', () => {
    const asking = graph(['a', 'b'], ['b', 'c', 'poll'], ['c', 'b', 'poll'], ['c', 'd']);
    expect(Space.explore(asking, [], { faults: 0 }).endless('endless')).toBeUndefined();
    const working = graph(['a', 'b'], ['b', 'c', 'poll'], ['c', 'b']);
    expect(Space.explore(working, [], { faults: 0 }).endless('endless')?.trace).toContain('=  "c"');
  });
});
