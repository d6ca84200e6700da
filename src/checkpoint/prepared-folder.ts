import { join } from 'node:path';

/**
 * Below the state of a node: a file `ID.json` for each container that was created from a checkpoint and not started yet. The
 * agent writes them; the relay knows by them whose start is the agent's.
 */
export function preparedFolder(stateDir: string): string {
  return join(stateDir, 'prepared');
}

export const PREPARED_SUFFIX = '.json';

/** A pod's checkpoint, in the folder that the CRI gives it. */
export const POD_ARCHIVE = 'pod.tar';
