import protobuf from 'protobufjs/light.js';
import descriptors from '../gen/criu.json' with { type: 'json' };
import type { Messages } from '../gen/criu.ts';

const root = protobuf.Root.fromJSON(descriptors);

/** CRIU's definition of a message, by its name there. */
export function messageType(name: keyof Messages): protobuf.Type {
  return root.lookupType(name);
}

/** Throws whatever protobufjs throws when the bytes are no such message. Bytes in the result are views. */
export function decodeMessage<N extends keyof Messages>(name: N, bytes: Buffer): Messages[N] {
  const type = messageType(name);
  const options = { longs: BigInt, enums: String, arrays: true };
  return type.toObject(type.decode(bytes), options) as Messages[N];
}
