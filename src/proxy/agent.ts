import { AgentService, CancelRequest, Event, type Result } from '../gen/gantry/v1/agent.ts';
import { type StatusCode, status } from '../grpc-status.ts';
import { connected } from './h2/connect.ts';
import type { Connection } from './h2/connection.ts';
import { type Fields, field, fieldValue } from './h2/fields.ts';
import { NOBODY } from './h2/stream.ts';
import type { Fail } from './intercept/interceptor.ts';
import { framed, MessageError, MessageReader } from './messages.ts';
import { codeOf, decodeMessage } from './status.ts';
import { CALL, callUnary } from './unary.ts';

const MOST_BYTES = 1024 * 1024;

export type Outcome = { readonly kind: 'done'; readonly result: Result } | Fail;

export interface AgentCall {
  /** Of a method of gantry.v1.Agent whose answer is a stream of events. */
  readonly path: string;
  readonly request: Uint8Array;
  /** Has the agent undo what it has begun, and waits until it has: DEADLINE_EXCEEDED, unless it was too late for that. */
  readonly limit?: AbortSignal | undefined;
  /** Nobody waits any more. */
  readonly gone: AbortSignal;
}

/**
 * Has the agent of the node carry out an operation. On a connection of its own: when it is lost, the agent undoes what ends
 * with its caller. Never rejects; UNAVAILABLE when there is no agent.
 */
export async function askAgent(socket: string, call: AgentCall): Promise<Outcome> {
  const { promise: closed, resolve: close } = Promise.withResolvers<Fail>();
  let connection: Connection;
  try {
    connection = await connected(socket, {
      onClose: () => close(unavailable(`gantry's agent on ${socket} has ended; it undoes what it had begun`)),
    });
  } catch {
    return unavailable(`gantry's agent does not answer on ${socket}: is it running?`);
  }
  const leave = (): void => close(fail(status.CANCELLED, 'nobody waits for it any more'));
  call.gone.addEventListener('abort', leave, { once: true });
  if (call.gone.aborted) leave();
  try {
    return await Promise.race([outcomeOf(connection, call), closed]);
  } finally {
    call.gone.removeEventListener('abort', leave);
    connection.destroy();
  }
}

function outcomeOf(connection: Connection, { path, request, limit }: AgentCall): Promise<Outcome> {
  return new Promise((resolve) => {
    const reader = new MessageReader(undefined, MOST_BYTES);
    let operationId = '';
    let result: Result | undefined;
    let isCancelled = false;
    const cancel = (): void => {
      if (isCancelled || operationId === '') return; // it says so as soon as it has begun
      isCancelled = true;
      void callUnary(connection, CANCEL, CancelRequest.encode(CancelRequest.fromPartial({ operationId })).finish());
    };
    limit?.addEventListener('abort', cancel, { once: true });
    const end = (fields: Fields): void => {
      const code = fieldValue(fields, 'grpc-status');
      if (code === undefined) return;
      limit?.removeEventListener('abort', cancel);
      if (codeOf(code) === status.OK && result !== undefined) resolve({ kind: 'done', result });
      else resolve(failureOf(fields, isCancelled));
    };
    const stream = connection.open({
      ...NOBODY,
      onHeaders: end,
      onData(view) {
        try {
          for (const message of reader.read(view)) {
            const event = Event.decode(message);
            if (event.started !== undefined) operationId = event.started.operationId;
            result ??= event.result;
          }
        } catch (error) {
          resolve(fail(error instanceof MessageError ? error.code : status.INTERNAL, String(error)));
        }
        stream.consumed(view.length);
        if (limit?.aborted === true) cancel();
      },
      onTrailers: end,
    });
    stream.sendHeaders([field(':path', path), ...CALL], false);
    stream.sendData(framed(request), true);
  });
}

const CANCEL = field(':path', AgentService.cancel.path);

/** The agent's error, and what to do about it. */
function failureOf(fields: Fields, isCancelled: boolean): Fail {
  const code = codeOf(fieldValue(fields, 'grpc-status')) as StatusCode;
  const message = decodeMessage(fieldValue(fields, 'grpc-message') ?? '');
  const hint = Buffer.from(fieldValue(fields, 'gantry-hint-bin') ?? '', 'base64').toString();
  if (isCancelled && code === status.CANCELLED)
    return fail(status.DEADLINE_EXCEEDED, 'it was not done in time, and has been undone');
  return fail(code === status.OK ? status.INTERNAL : code, hint === '' ? message : `${message} (${hint})`);
}

function unavailable(message: string): Fail {
  return fail(status.UNAVAILABLE, message);
}

function fail(code: StatusCode, message: string): Fail {
  return { kind: 'fail', code, message };
}
