import type { MethodDefinition } from '@grpc/grpc-js';
import { message, type RawClient } from '../../../src/proxy/relay.fixture.ts';
import { perform, statusOf } from './answer.ts';

/** A call whose answer only serves to go on. */
export async function unary<Q, A>(client: RawClient, method: MethodDefinition<Q, A>, request: Q): Promise<A> {
  const answer = await perform(client, { path: method.path, body: message(method.requestSerialize(request)) });
  const [first] = answer.messages;
  if (first === undefined) throw new Error(`${method.path} failed with status ${statusOf(answer)}`);
  return method.responseDeserialize(first.bytes);
}
