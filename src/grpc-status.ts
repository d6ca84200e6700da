/**
 * The status codes of gRPC (its specification, "Status codes and their use in gRPC"). grpc-js has them, too, but the relay
 * uses nothing else of it and would load all of it for them: 10 MiB of memory on every node.
 */
export const status = {
  OK: 0,
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

export type StatusCode = (typeof status)[keyof typeof status];

const NAMES: ReadonlyMap<number, string> = new Map(Object.entries(status).map(([name, code]) => [code, name]));

/** "NOT_FOUND"; the number itself for a code that gRPC does not have. */
export function nameOfCode(code: number): string {
  return NAMES.get(code) ?? String(code);
}
