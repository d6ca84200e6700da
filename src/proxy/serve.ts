import { GantryError, REASONS } from '../errors.ts';
import { status } from '../grpc-status.ts';
import { type Answered, Exchange } from './exchange.ts';
import type { Fields } from './h2/fields.ts';
import type { Stream } from './h2/stream.ts';
import type { OwnMethod } from './own.ts';

// The requests of the relay's own methods are small.
const REQUEST_BYTES = 64 * 1024;

const OK: Answered = { code: status.OK, message: '' };
const GONE: Answered = { code: status.CANCELLED, message: '' };
const STOPPING: Answered = { code: status.UNAVAILABLE, message: 'gantry proxy is stopping' };

/** Answers one call by a method of the relay's own. Never rejects. `stopping` ends it early, with a status. */
export async function serve(
  down: Stream,
  headers: Fields,
  endStream: boolean,
  method: OwnMethod,
  stopping: AbortSignal,
): Promise<Answered> {
  const { promise, resolve } = Promise.withResolvers<Uint8Array | Answered>();
  const exchange = new Exchange(down, headers, REQUEST_BYTES, {
    request: resolve,
    refused: resolve,
    gone: () => resolve(GONE),
  });
  const stop = (): void => {
    exchange.abort();
    resolve(STOPPING);
  };
  stopping.addEventListener('abort', stop);
  if (stopping.aborted) stop();
  if (endStream) exchange.endRequest();
  exchange.sendHeaders();
  const request = await promise;
  let end = request instanceof Uint8Array ? await answer(exchange, method(request, exchange.signal)) : request;
  stopping.removeEventListener('abort', stop);
  if (exchange.gone) return GONE;
  if (stopping.aborted && end.code !== status.OK) end = STOPPING;
  exchange.end(end);
  return end;
}

/** Sends messages as there is room for them; what is thrown is the status. Never rejects. */
export async function answer(
  exchange: Exchange,
  messages: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<Answered> {
  try {
    for await (const message of messages) {
      if (exchange.aborted) break;
      await exchange.send(message);
    }
    return exchange.aborted ? STOPPING : OK;
  } catch (error) {
    return answeredBy(error);
  }
}

/** The status of whatever was thrown. */
export function answeredBy(error: unknown): Answered {
  const { reason, message } = GantryError.from(error);
  return { code: REASONS[reason].grpc, message };
}
