import { Metadata } from '@grpc/grpc-js';
import { fromAgent } from '../src/cli/operation.ts';
import { AgentService, type Event, type Result, SurgeryRequest } from '../src/gen/gantry/v1/agent.ts';
import { connectSocket } from '../src/runtime/grpc.ts';

export type Verb = 'remove' | 'insert' | 'swap' | 'rollback';

/** One operation, as the command line asks for it. Throws the agent's GantryError. */
export async function operate(
  socket: string,
  verb: Verb,
  request: Partial<SurgeryRequest>,
  options: {
    readonly onPhase?: (name: string) => void;
    /** Why a step that has to succeed did not. */
    readonly onRetry?: ((why: string) => void) | undefined;
    /** As a command that is killed. */
    readonly cut?: AbortSignal;
  } = {},
): Promise<Result> {
  const { onPhase, onRetry, cut } = options;
  const client = connectSocket(socket);
  const { path, requestSerialize, responseDeserialize } = AgentService[verb];
  const full = SurgeryRequest.fromPartial({
    graceSeconds: -1,
    settleMs: 200,
    retainSeconds: 3600,
    who: 'a test',
    ...request,
  });
  const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, full, new Metadata());
  cut?.addEventListener('abort', () => call.cancel());
  try {
    for await (const event of call as AsyncIterable<Event>) {
      if (event.retrying !== undefined) onRetry?.(event.retrying.why);
      if (event.phaseStarted !== undefined) onPhase?.(event.phaseStarted.name);
      if (event.result !== undefined) return event.result;
    }
    throw new Error('the agent ended the call without a result');
  } catch (error) {
    throw fromAgent(error, socket);
  } finally {
    client.close();
  }
}
