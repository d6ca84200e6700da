import type { Node } from '../agent/node.ts';
import type { TargetEntry } from './journal.ts';
import { removePlaceholder } from './placeholder.ts';
import { type Answer, onRevert, outcomeOf, type Whereabouts } from './protocol.ts';

/**
 * Where a pod is that was moved to this node. On its way, or moved on, when the node is the source of it in a migration that is
 * not over: its address is still in use then. Errors: RUNTIME_UNAVAILABLE.
 */
async function whereIs(node: Node, { sandbox }: TargetEntry): Promise<Whereabouts> {
  const isSource = () => node.journal.pending('source').some((entry) => entry.sandbox === sandbox && entry.peer !== '');
  if (isSource()) return 'moved on';
  if ((await node.cri.listSandboxes()).some(({ id }) => id === sandbox)) return 'here';
  // It may have gone on its way while the runtime was asked.
  return isSource() ? 'moved on' : 'gone';
}

/** What a target says of a migration. Errors: RUNTIME_UNAVAILABLE. */
export async function tellOutcome(node: Node, entry: TargetEntry | undefined): Promise<Answer> {
  const isThere = entry?.state === 'serving' || entry?.state === 'final';
  return outcomeOf(entry?.state, isThere ? await whereIs(node, entry) : 'here');
}

/**
 * Ends this node's copy for a rollback at the source: "ended" is written when nothing of it is left, and only then said.
 * Errors: RUNTIME_UNAVAILABLE.
 */
export async function endForRollback(node: Node, entry: TargetEntry | undefined): Promise<Answer> {
  const isServing = entry?.state === 'serving';
  const next = onRevert(entry?.state, isServing ? await whereIs(node, entry) : 'here');
  if (entry === undefined || (next !== 'end' && next !== 'refuse')) return next as Answer;
  if (next === 'refuse') {
    await node.journal.write({ ...entry, state: 'final' });
    return 'refused';
  }
  const { sandbox } = entry;
  // Somebody works on it, and it may be about to move: whoever asks asks again.
  if (node.busy.has(sandbox)) return 'resuming';
  node.busy.add(sandbox);
  try {
    await removePlaceholder(node, entry);
    await node.migrations.records.change('target', entry.operation, { state: 'rolled-back' });
    await node.journal.write({ ...entry, state: 'ended' });
    return 'ended';
  } finally {
    node.busy.delete(sandbox);
  }
}
