import { NO_METHODS, type OwnMethod, type OwnMethods } from './own.ts';

/**
 * What the relay does with a call, by its path.
 *
 *   relay   its frames are passed on to the runtime
 *   serve   the relay answers it itself
 *   refuse  it is answered UNIMPLEMENTED: containerd serves its whole API on the CRI socket, and none of that is ours to export
 */
export type Route =
  | { kind: 'relay'; service: string; method: string }
  | { kind: 'serve'; method: OwnMethod }
  | { kind: 'refuse'; message: string };

// The methods of these services are relayed, known or not: a newer kubelet may call what this table has never heard of.
const SERVICES: ReadonlySet<string> = new Set(['runtime.v1.RuntimeService', 'runtime.v1.ImageService']);

/** The only place that decides which calls reach the runtime. */
export function routeOf(path: string, own: OwnMethods = NO_METHODS): Route {
  const [, service = '', method = ''] = /^\/([^/]+)\/([^/]+)$/.exec(path) ?? [];
  if (SERVICES.has(service)) return { kind: 'relay', service, method };
  const served = own.get(path);
  if (served !== undefined) return { kind: 'serve', method: served };
  return { kind: 'refuse', message: `${path} is not relayed: gantry passes on ${[...SERVICES].join(' and ')} only` };
}
