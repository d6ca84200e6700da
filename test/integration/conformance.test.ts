import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { METHODS } from '../../src/proxy/methods.ts';
import { REFUSALS } from './conformance/refusals.ts';
import { SCRIPT } from './conformance/script.ts';
import { Stage } from './conformance/stage.ts';
import { type Step, SUITES, type Suite } from './conformance/step.ts';

// Every method of the CRI is called on the runtime's own socket and through the relay, and a client cannot tell which
// was which. What changes something is done to twins, one by either way. The steps build on one another:
// none can be run alone.

const UNIMPLEMENTED = 12;

test('the script performs every method of the table', () => {
  const performed = SCRIPT.map(({ path, streams }) => ({ path, streams }));
  for (const [name, { service, streams }] of Object.entries(METHODS)) {
    expect(performed).toContainEqual({ path: `/runtime.v1.${service}/${name}`, streams });
  }
});

describe.each(SUITES)('with the containerd of %s, through the relay and without', (suite) => {
  let stage: Stage;

  beforeAll(async () => {
    stage = await Stage.open(suite);
  });

  afterAll(() => stage?.[Symbol.asyncDispose]());

  for (const step of SCRIPT) {
    test(`${step.name} has the same answer`, async () => {
      const { status, direct, relayed } = await stage.perform(step);
      expectStatus(status, step, suite);
      expect(relayed).toStrictEqual(direct);
    });
  }

  for (const { method, path, bodies } of REFUSALS) {
    test(`${method} refuses wrong requests with the same answer`, async () => {
      for (const [what, body] of Object.entries(bodies)) {
        const { direct, relayed } = await stage.both({ path, body });
        expect(relayed, what).toStrictEqual(direct);
      }
    });
  }
});

function expectStatus(actual: number | undefined, { since, status }: Step, suite: Suite): void {
  // The newest suite moves on: one day it will have those, too.
  if (since === 'later') return;
  if (SUITES.indexOf(suite) < SUITES.indexOf(since)) expect(actual).toBe(UNIMPLEMENTED);
  else if (status === 'failure') expect(actual).not.toBe(0);
  else if (status !== 'any') expect(actual).toBe(status);
}
