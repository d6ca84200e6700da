import { join } from 'node:path';
import { exists } from '../durable.ts';
import { HealthCheckRequest, HealthService } from '../gen/grpc/health/v1/health.ts';
import type { Log } from '../log.ts';
import { MovedAddresses } from '../network/moved.ts';
import { takePassedSocket } from '../systemd/activation.ts';
import { notifier } from '../systemd/notify.ts';
import { feedWatchdog, watchdogIntervalMs } from '../systemd/watchdog.ts';
import { Addresses } from './addresses.ts';
import { CallLog } from './call-log.ts';
import { Checkpoints } from './checkpoints.ts';
import type { ProxyConfig } from './config.ts';
import { healthMethods, RELAY_SERVICE } from './health.ts';
import type { MetricsServer } from './metrics-server.ts';
import type { OwnMethods } from './own.ts';
import { probe, runtimeProbe } from './probe.ts';
import { type CallSink, Recorder } from './recorder.ts';
import { type Relay, serveRelay } from './relay.ts';
import { slotMethods } from './slots/service.ts';
import { SlotTable } from './slots/table.ts';
import { Virtual } from './slots/virtual.ts';
import { Trace } from './trace.ts';

/** The name that the socket's unit gives its descriptor. */
const SOCKET_NAME = 'cri';

/** Runs the relay with everything around it (metrics, health, trace, the service manager) until `signal`, in order. */
export async function runProxy(config: ProxyConfig, log: Log, signal: AbortSignal): Promise<void> {
  const notify = notifier(log);
  const passed = takePassedSocket(SOCKET_NAME);
  const trace = new Trace();
  const sinks: CallSink[] = [new CallLog(log), trace];
  const slots = await SlotTable.open(join(config.stateDir, 'slots'), log);
  const own: OwnMethods = new Map([
    ...healthMethods(runtimeProbe(config.upstream)),
    ...trace.methods(),
    ...slotMethods(slots, {
      readsOver: (limit) => relay.readsOver(limit),
      runsOver: () => relay.runsOver(),
    }),
  ]);
  await using _metrics = await metricsOf(config, sinks, log);

  const listen = passed?.path ?? config.listen;
  await using relay: Relay = await serveRelay({
    listen,
    ...(passed && { listenFd: passed.fd }),
    upstream: config.upstream,
    upstreamWaitMs: config.upstreamWaitMs,
    drainTimeoutMs: config.drainTimeoutMs,
    runtimeApi: config.runtimeApi,
    log,
    observer: new Recorder(sinks),
    own,
    // The slots first: to the others, containers are the real ones.
    interceptors: [new Virtual(slots), new Checkpoints(config), new Addresses(new MovedAddresses(config.stateDir))],
    signal,
  });
  signal.addEventListener('abort', () => void notify('STOPPING=1', 'STATUS=Finishing calls in flight'));
  if (!signal.aborted) await notify('READY=1', `STATUS=Relaying ${listen} to ${config.upstream}`);
  const intervalMs = watchdogIntervalMs();
  if (intervalMs !== undefined) {
    const probeSelf = async (timeoutMs: number) => {
      // A name that somebody has removed is systemd's to bring back; restarts would only break the connections there are.
      if (passed === undefined || (await exists(listen))) return relayAnswers(relay, timeoutMs);
      log.error('socket-missing', { listen, remedy: 'systemctl restart gantry-proxy.socket gantry-proxy.service' });
      return true;
    };
    void feedWatchdog({ intervalMs, probe: probeSelf, notify, log, signal });
  }
  await relay.closed;
}

/** Through the front door: the loop runs, the listener accepts, a call is answered. The runtime's health is not asked. */
async function relayAnswers(relay: Relay, timeoutMs: number): Promise<boolean> {
  const request = HealthCheckRequest.encode({ service: RELAY_SERVICE }).finish();
  return (await probe(relay.listen, HealthService.check.path, request, timeoutMs)) === 0;
}

/** Metrics that cannot be served are no reason to leave kubelet without a runtime. */
async function metricsOf(config: ProxyConfig, sinks: CallSink[], log: Log): Promise<MetricsServer | undefined> {
  if (config.metrics === '') return undefined;
  const [{ RelayMetrics }, { tryToServe }] = await Promise.all([import('./metrics.ts'), import('./metrics-server.ts')]);
  const metrics = new RelayMetrics();
  const server = await tryToServe(metrics.registry, config.metrics, log);
  if (server !== undefined) sinks.push(metrics);
  return server;
}
