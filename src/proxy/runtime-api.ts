import { status } from '../grpc-status.ts';
import type { Connection } from './h2/connection.ts';
import { type Field, field } from './h2/fields.ts';
import { callUnary } from './unary.ts';

/** Versions of the CRI that a runtime may speak. For the methods that both have, their messages are the same on the wire. */
export type RuntimeApi = 'v1' | 'v1alpha2';

const V1 = '/runtime.v1.';
const V1ALPHA2 = '/runtime.v1alpha2.';
const VERSION = 'RuntimeService/Version';
const CACHED_PATHS = 200;

/**
 * Asks a runtime whether it has v1, and else whether it has v1alpha2; undefined when it does not say. `starting` when it
 * says UNAVAILABLE: containerd accepts connections before its CRI plugin does ("server is not initialized yet").
 */
export async function askRuntimeApi(connection: Connection): Promise<RuntimeApi | 'starting' | undefined> {
  const v1 = await callUnary(connection, field(':path', V1 + VERSION));
  if (v1 === undefined) return undefined;
  if (v1.code === status.UNAVAILABLE) return 'starting';
  // Any other error is one of a method that is there. A runtime without either keeps its own words for it.
  if (v1.code !== status.UNIMPLEMENTED) return 'v1';
  const v1alpha2 = await callUnary(connection, field(':path', V1ALPHA2 + VERSION));
  return v1alpha2?.code === status.OK ? 'v1alpha2' : 'v1';
}

const paths = new Map<string, Field>();

/** The `:path` of a v1 call on a runtime that speaks v1alpha2. What that version lacks, the runtime says itself. */
export function v1alpha2Path(path: string): Field {
  const known = paths.get(path);
  if (known !== undefined) return known;
  const mapped = field(':path', path.startsWith(V1) ? V1ALPHA2 + path.slice(V1.length) : path);
  if (paths.size < CACHED_PATHS) paths.set(path, mapped);
  return mapped;
}
