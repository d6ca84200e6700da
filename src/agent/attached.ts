import type { ServerWritableStream } from '@grpc/grpc-js';
import type { Event } from '../gen/gantry/v1/agent.ts';
import type { Operation } from './operation.ts';

/**
 * An operation that ends with its caller: it is cancelled when that one goes away, and what it has made is removed when
 * nobody has waited for it.
 */
export async function attached<T>(
  call: Pick<ServerWritableStream<unknown, Event>, 'cancelled' | 'once'>,
  operation: Operation,
  work: () => Promise<T>,
  remove: (result: T) => Promise<void>,
): Promise<T> {
  call.once('cancelled', () => operation.cancel());
  if (call.cancelled) operation.cancel();
  const result = await work();
  if (call.cancelled) await remove(result);
  return result;
}
