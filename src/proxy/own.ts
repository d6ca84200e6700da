/**
 * A method that the relay answers itself: it is given the request message and yields the answer's messages, one or many,
 * each only when the client has room for it. What it throws ends the call with the status of that GantryError.
 *
 * @param signal aborts when the client has gone or the relay stops
 */
export type OwnMethod = (request: Uint8Array, signal: AbortSignal) => AsyncIterable<Uint8Array>;

/** By path: "/grpc.health.v1.Health/Check". */
export type OwnMethods = ReadonlyMap<string, OwnMethod>;

export const NO_METHODS: OwnMethods = new Map();
