import { setTimeout as delay } from 'node:timers/promises';
import { GantryError } from '../errors.ts';
import {
  HealthCheckRequest,
  HealthCheckResponse,
  HealthService,
  HealthCheckResponse_ServingStatus as Serving,
} from '../gen/grpc/health/v1/health.ts';
import type { OwnMethod } from './own.ts';

/** The service that stands for the relay alone: it serves as long as it answers, with or without a runtime. */
export const RELAY_SERVICE = 'gantry.v1.Relay';

// What the relay passes on serves when the runtime does; "" is the whole server.
const THROUGH_RUNTIME: ReadonlySet<string> = new Set(['', 'runtime.v1.RuntimeService', 'runtime.v1.ImageService']);
const WATCH_INTERVAL_MS = 1000;

/** gRPC health checking: `Check`, and `Watch`, which asks once a second as long as somebody watches. */
export function healthMethods(
  runtimeAnswers: () => Promise<boolean>,
  watchIntervalMs = WATCH_INTERVAL_MS,
): [path: string, method: OwnMethod][] {
  const servingOf = async (service: string) => {
    if (service === RELAY_SERVICE) return Serving.SERVING;
    if (!THROUGH_RUNTIME.has(service)) return Serving.SERVICE_UNKNOWN;
    return (await runtimeAnswers()) ? Serving.SERVING : Serving.NOT_SERVING;
  };

  async function* check(request: Uint8Array): AsyncIterable<Uint8Array> {
    const { service } = HealthCheckRequest.decode(request);
    const status = await servingOf(service);
    if (status === Serving.SERVICE_UNKNOWN) throw new GantryError('NOT_FOUND', `"${service}" is not served here`);
    yield HealthCheckResponse.encode({ status }).finish();
  }

  async function* watch(request: Uint8Array, signal: AbortSignal): AsyncIterable<Uint8Array> {
    const { service } = HealthCheckRequest.decode(request);
    let told: number = Serving.UNRECOGNIZED;
    while (!signal.aborted) {
      const status = await servingOf(service);
      if (status !== told) yield HealthCheckResponse.encode({ status }).finish();
      told = status;
      await delay(watchIntervalMs, undefined, { signal }).catch(() => undefined);
    }
  }

  return [
    [HealthService.check.path, check],
    [HealthService.watch.path, watch],
  ];
}
