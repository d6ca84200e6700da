import { createHash, randomBytes } from 'node:crypto';
import type { IncomingMessage, RequestOptions } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.ts';
import type { Migration } from '../gen/gantry/v1/agent.ts';
import type { Log } from '../log.ts';

// Not by `fetch`, nor by `import`: both read far more than this needs, which stays in the agent's memory.
const { request: plain } = process.getBuiltinModule('node:http');
const { request: secure } = process.getBuiltinModule('node:https');

const LIMIT_MS = 5000;
/** A collector that does not answer: more than these are dropped. */
const MOST_WAITING = 100;
const OVER_LIMIT_MS = 1000;
const INTERNAL_SPAN = 1;
const STATUS_OK = 1;
const STATUS_ERROR = 2;

/**
 * Sends a trace of each migration to an OpenTelemetry collector: one span for each side, one for each of its phases, all in
 * one trace. Nothing waits for it, and nothing fails with it.
 */
export class Traces {
  readonly #endpoint: URL;
  readonly #node: string;
  readonly #log: Log;
  readonly #sending = new Set<Promise<void>>();

  /** @param endpoint of OTLP over HTTP, without the path: `http://collector:4318` */
  constructor(endpoint: string, node: string, log: Log) {
    this.#endpoint = new URL('/v1/traces', endpoint);
    this.#node = node;
    this.#log = log;
  }

  /** One that nobody works on any more. */
  add(migration: Migration): void {
    const why = (error: string) => this.#log.warn('trace-not-sent', { operation: migration.id, why: error });
    if (this.#sending.size >= MOST_WAITING) {
      why(`${MOST_WAITING} wait already`);
      return;
    }
    const sending = post(this.#endpoint, JSON.stringify(traceOf(migration, this.#node)))
      .catch((error: unknown) => why(messageOf(error)))
      .finally(() => this.#sending.delete(sending));
    this.#sending.add(sending);
  }

  /** Gives those that are under way a second. */
  async [Symbol.asyncDispose](): Promise<void> {
    const stop = new AbortController();
    const limit = sleep(OVER_LIMIT_MS, undefined, { signal: stop.signal }).catch(() => undefined);
    await Promise.race([Promise.all(this.#sending), limit]);
    stop.abort();
  }
}

/**
 * Pure: a migration as OTLP has it in JSON (opentelemetry-proto, ExportTraceServiceRequest). The IDs of the trace and of the
 * source's span come from the migration's own, so that both nodes know them without a word.
 */
export function traceOf(migration: Migration, node: string) {
  const { id, direction, phases, state, reason, message } = migration;
  const traceId = createHash('sha256').update(id).digest('hex').slice(0, 32);
  const isSource = direction === 'out';
  const spanId = isSource ? id : randomBytes(8).toString('hex');
  const at = (ms: number) => String(BigInt(Math.round((migration.startedUnixMs + ms) * 1000)) * 1000n);
  const end = Math.max(migration.endedUnixMs - migration.startedUnixMs, 0);
  const isWhole = state === 'serving';
  const root = {
    traceId,
    spanId,
    ...(!isSource && { parentSpanId: id }),
    name: isSource ? 'migration' : 'migration, target',
    kind: INTERNAL_SPAN,
    startTimeUnixNano: at(0),
    endTimeUnixNano: at(end),
    attributes: attributes({
      'gantry.operation': id,
      'gantry.peer': migration.peer,
      'gantry.mode': migration.mode,
      'gantry.state': state,
      'gantry.bytes': Number(migration.bytes),
      'gantry.frozen_ms': migration.frozenMs,
      'k8s.pod.name': migration.pod,
      'k8s.namespace.name': migration.namespace,
    }),
    status: isWhole
      ? { code: STATUS_OK }
      : { code: STATUS_ERROR, message: [reason, message].filter(Boolean).join(': ') },
  };
  const children = phases.map(({ name, startMs, durationMs }) => ({
    traceId,
    spanId: randomBytes(8).toString('hex'),
    parentSpanId: spanId,
    name,
    kind: INTERNAL_SPAN,
    startTimeUnixNano: at(startMs),
    endTimeUnixNano: at(startMs + durationMs),
    attributes: [],
    status: { code: STATUS_OK },
  }));
  const resource = {
    'service.name': 'gantry-agent',
    'service.version': process.env.GANTRY_VERSION ?? 'development',
    'host.name': node,
  };
  return {
    resourceSpans: [
      {
        resource: { attributes: attributes(resource) },
        scopeSpans: [{ scope: { name: 'gantry' }, spans: [root, ...children] }],
      },
    ],
  };
}

function attributes(values: Readonly<Record<string, string | number>>) {
  return Object.entries(values).map(([key, value]) => ({
    key,
    value: typeof value === 'number' ? { doubleValue: value } : { stringValue: value },
  }));
}

/** Errors: those of the connection; what the collector says instead of 2xx. */
async function post(to: URL, body: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const options: RequestOptions = {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
    signal: AbortSignal.timeout(LIMIT_MS),
    agent: false,
  };
  const answered = (response: IncomingMessage) => {
    response.resume();
    const { statusCode = 0 } = response;
    if (statusCode >= 200 && statusCode < 300) resolve();
    else reject(new Error(`${to} answered ${statusCode}`));
  };
  const request = (to.protocol === 'https:' ? secure : plain)(to, options, answered);
  request.on('error', reject);
  request.end(body);
  await promise;
}
