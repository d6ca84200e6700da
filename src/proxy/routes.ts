import type { CallHead } from './intercept/interceptor.ts';
import { NO_METHODS, type OwnMethod, type OwnMethods } from './own.ts';

/**
 * What the relay does with a call, by its path.
 *
 *   relay   its frames are passed on to the runtime
 *   serve   the relay answers it itself
 *   refuse  it is answered UNIMPLEMENTED: containerd serves its whole API on the CRI socket, and none of that is ours to export
 */
export type Route =
  | ({ kind: 'relay' } & CallHead)
  | { kind: 'serve'; method: OwnMethod }
  | { kind: 'refuse'; message: string };

// The methods of these services are relayed, known or not: a newer kubelet may call what this table has never heard of.
const SERVICES: ReadonlyMap<string, CallHead['service']> = new Map([
  ['runtime.v1.RuntimeService', 'RuntimeService'],
  ['runtime.v1.ImageService', 'ImageService'],
]);
// A client can make up any number of methods.
const KEPT_ROUTES = 200;

/** The only place that decides which calls reach the runtime. */
export class Routes {
  readonly #own: OwnMethods;
  readonly #kept = new Map<string, Route>();

  constructor(own: OwnMethods = NO_METHODS) {
    this.#own = own;
  }

  of(path: string): Route {
    return this.#kept.get(path) ?? this.#find(path);
  }

  #find(path: string): Route {
    const [, name = '', method = ''] = /^\/([^/]+)\/([^/]+)$/.exec(path) ?? [];
    const service = SERVICES.get(name);
    if (service !== undefined) {
      const route: Route = { kind: 'relay', service, method };
      if (this.#kept.size < KEPT_ROUTES) this.#kept.set(path, route);
      return route;
    }
    const served = this.#own.get(path);
    if (served !== undefined) return { kind: 'serve', method: served };
    const relayed = [...SERVICES.keys()].join(' and ');
    return { kind: 'refuse', message: `${path} is not relayed: gantry passes on ${relayed} only` };
  }
}
