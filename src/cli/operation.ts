import { Metadata, type MethodDefinition, type ServiceError, status } from '@grpc/grpc-js';
import { Option } from 'commander';
import { GantryError, REASONS, type Reason } from '../errors.ts';
import { AgentService, type Event, type Result } from '../gen/gantry/v1/agent.ts';
import { connectSocket, isServiceError, unary } from '../runtime/grpc.ts';
import { ProgressLine } from './progress.ts';

const STARTED_LIMIT_MS = 1000;

export function agentOption(): Option {
  return new Option('--agent <socket>', "the agent's socket").default('/run/gantry/agent.sock').env('GANTRY_AGENT');
}

/**
 * Runs one of the agent's operations and shows its progress. Ctrl-C asks the agent to roll back and waits until it has;
 * a second one leaves it to the agent. A command that is killed changes nothing: the operation is the agent's.
 *
 * @param what goes before the operation's ID in the first line; without it, there is no such line
 */
export async function runOperation<Request>(
  socket: string,
  method: MethodDefinition<Request, Event>,
  request: Request,
  what = '',
): Promise<Result> {
  const client = connectSocket(socket);
  const progress = new ProgressLine(process.stderr);
  const call = client.makeServerStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    request,
    new Metadata(),
  );
  let operationId = '';
  let isEarly = false;
  const interrupt = () => {
    if (operationId === '') {
      // The agent may have begun, and its word be on the way; an agent that is silent is not waited for.
      isEarly = true;
      return void setTimeout(() => operationId === '' && call.cancel(), STARTED_LIMIT_MS);
    }
    progress.note('cancelling: the agent rolls back (once more to leave it alone)');
    process.once('SIGINT', () => process.exit(130));
    unary(client, AgentService.cancel, { operationId }, { timeoutMs: 10_000 }).then(
      ({ accepted }) => accepted || progress.note('too late to cancel: it is committed and will be carried through'),
      (error: unknown) => progress.note(`cannot cancel: ${String(error)}`),
    );
  };
  process.once('SIGINT', interrupt);
  process.once('SIGTERM', interrupt);
  try {
    for await (const event of call as AsyncIterable<Event>) {
      if (event.started) {
        operationId = event.started.operationId;
        if (isEarly) interrupt();
        if (what !== '') progress.note(`${what} ${operationId}`);
      } else if (event.result) return event.result;
      else progress.show(event);
    }
    throw new GantryError('AGENT_UNAVAILABLE', 'the agent ended the call without a result');
  } catch (error) {
    throw fromAgent(error, socket);
  } finally {
    process.off('SIGINT', interrupt);
    process.off('SIGTERM', interrupt);
    progress.clear();
    client.close();
  }
}

/** The agent's error as it was thrown there. Errors: AGENT_UNAVAILABLE, when it never got there or died on the way. */
export function fromAgent(error: unknown, socket: string): GantryError {
  if (!isServiceError(error)) return GantryError.from(error);
  const [reason] = (error as ServiceError).metadata.get('gantry-reason');
  if (typeof reason === 'string' && reason in REASONS) {
    const [hint] = error.metadata.get('gantry-hint-bin');
    return new GantryError(reason as Reason, error.details, { cause: error, hint: String(hint ?? '') });
  }
  if (error.code === status.CANCELLED) return new GantryError('CANCELLED', 'cancelled', { cause: error });
  return new GantryError('AGENT_UNAVAILABLE', `the agent on ${socket} does not answer: ${error.details}`, {
    cause: error,
    hint: 'is gantry agent running on this node? Its operations are finished or rolled back when it starts again',
  });
}
