import { setTimeout as sleep } from 'node:timers/promises';
import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import { messageOf } from '../errors.ts';

const ATTEMPTS = 1000;

/**
 * Repeats a step that has to succeed (a rollback, a recovery) until it does, ever more slowly, telling the log. Gives up
 * after some hours with the last error; the journal's entry is then still there for the next start.
 *
 * @param operation tells whoever asked for it of each try that failed, and why
 */
export async function untilDone(
  node: Node,
  what: string,
  step: () => Promise<void>,
  operation?: Operation,
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await step();
    } catch (error) {
      if (attempt === ATTEMPTS) throw error;
      node.log.warn('retrying', { what, attempt, why: messageOf(error) });
      operation?.retrying(what, messageOf(error));
      await sleep(Math.min(100 * 2 ** attempt, 10_000));
    }
  }
}

/** Tries a step now, and goes on trying in the background when it fails: nobody waits for it. */
export async function nowOrLater(node: Node, what: string, step: () => Promise<void>): Promise<void> {
  try {
    await step();
  } catch {
    untilDone(node, what, step).catch((error: unknown) => node.log.error('given-up', { what, why: messageOf(error) }));
  }
}
