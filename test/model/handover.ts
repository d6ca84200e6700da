import { faults } from './faults.ts';
import type { Mutant } from './mutants.ts';
import { queries } from './queries.ts';
import type { Model } from './search.ts';
import { source } from './source.ts';
import { INITIAL, Possible, type State } from './state.ts';
import { target } from './target.ts';
import { users } from './users.ts';

/** One migration and what follows: rollback, or the end of what was kept. */
export function handover(mutant?: Mutant): Model<State> {
  return {
    initial: INITIAL,
    key: (state) => Object.values(state).join('|'),
    steps: (state) => {
      const can = new Possible(state);
      source(state, can, mutant);
      target(state, can, mutant);
      queries(state, can, mutant);
      users(state, can, mutant);
      faults(state, can, mutant);
      return can.steps;
    },
  };
}
