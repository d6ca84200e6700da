import { Metadata, type MethodDefinition } from '@grpc/grpc-js';
import { fromAgent } from '../src/cli/operation.ts';
import { AgentService, type Event, type Result, SurgeryRequest } from '../src/gen/gantry/v1/agent.ts';
import { connectSocket } from '../src/runtime/grpc.ts';

export type Verb = 'remove' | 'insert' | 'swap' | 'rollback';

interface OperationOptions {
  readonly onPhase?: (name: string) => void;
  /** Why a step that has to succeed did not. */
  readonly onRetry?: ((why: string) => void) | undefined;
  /** As a command that is killed. */
  readonly cut?: AbortSignal;
}

/** One change of a slot, as the command line asks for it. Throws the agent's GantryError. */
export function operate(
  socket: string,
  verb: Verb,
  request: Partial<SurgeryRequest>,
  options: OperationOptions = {},
): Promise<Result> {
  const full = SurgeryRequest.fromPartial({
    graceSeconds: -1,
    settleMs: 200,
    retainSeconds: 3600,
    who: 'a test',
    ...request,
  });
  return operateAgent(socket, AgentService[verb], full, options);
}

/** Any of the agent's operations. Throws the agent's GantryError. */
export async function operateAgent<Request>(
  socket: string,
  { path, requestSerialize, responseDeserialize }: MethodDefinition<Request, Event>,
  request: Request,
  { onPhase, onRetry, cut }: OperationOptions = {},
): Promise<Result> {
  const client = connectSocket(socket);
  const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, new Metadata());
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
