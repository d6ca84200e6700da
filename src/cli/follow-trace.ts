import { Metadata, type ServiceError } from '@grpc/grpc-js';
import { GantryError } from '../errors.ts';
import { RelayService, type TracedCall, type TraceEvent } from '../gen/gantry/v1/relay.ts';
import { nameOfCode, status } from '../grpc-status.ts';
import { connectSocket, isServiceError } from '../runtime/grpc.ts';
import type { Format } from './output.ts';

const METHOD_WIDTH = 26;
const CODE_WIDTH = 17;
const SHORT_ID = 13;

/** Prints the calls of the relay on `socket` as they end, until a signal or until nobody reads any more. */
export async function followTrace(socket: string, methods: string[], format: Format): Promise<void> {
  const print = format === 'json' ? printJson : printLine;
  if (format !== 'json') console.log(HEADER);
  await follow(socket, methods, print);
}

async function follow(socket: string, methods: string[], print: (event: TraceEvent) => void): Promise<void> {
  const client = connectSocket(socket);
  const { path, requestSerialize, responseDeserialize } = RelayService.trace;
  const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, { methods }, new Metadata());
  const stop = () => call.cancel();
  process.once('SIGINT', stop);
  process.once('SIGTERM', stop);
  // The reader of a pipe has had enough ("| head").
  process.stdout.once('error', stop);
  try {
    for await (const event of call as AsyncIterable<TraceEvent>) print(event);
  } catch (error) {
    if (!isServiceError(error) || error.code !== status.CANCELLED) throw explain(error, socket);
  } finally {
    client.close();
  }
}

function explain(error: unknown, socket: string): GantryError {
  if (!isServiceError(error)) return GantryError.from(error);
  const { code, details } = error as ServiceError;
  if (code === status.UNIMPLEMENTED) {
    return new GantryError('UNSUPPORTED', `what answers on ${socket} is no gantry proxy, or one without trace`, {
      cause: error,
    });
  }
  return new GantryError('RUNTIME_UNAVAILABLE', `the proxy on ${socket} does not answer: ${details}`, {
    cause: error,
    hint: 'is gantry proxy running on this node? --socket says where',
  });
}

function printJson({ call, dropped }: TraceEvent): void {
  if (dropped !== undefined) console.log(JSON.stringify({ dropped: Number(dropped) }));
  if (call === undefined) return;
  const { startUnixMs, method, mode, code, message, durationMs, ownMs, upstreamMs, bytesUp, bytesDown } = call;
  const { namespace, pod, container, sandboxId, containerId } = call;
  const time = new Date(startUnixMs).toISOString();
  const bytes = { bytesUp: Number(bytesUp), bytesDown: Number(bytesDown) };
  const subject = { namespace, pod, container, sandboxId, containerId };
  console.log(
    JSON.stringify({
      ...{ time, method, mode, code: nameOfCode(code), message, durationMs, ownMs, upstreamMs },
      ...bytes,
      ...Object.fromEntries(Object.entries(subject).filter(([, text]) => text !== '')),
    }),
  );
}

const HEADER = `${columns('TIME', 'METHOD', 'CODE', 'TOTAL', 'OWN', 'UPSTREAM', 'UP', 'DOWN')}  SUBJECT`;

function printLine({ call, dropped }: TraceEvent): void {
  if (dropped !== undefined) console.log(`… ${dropped} calls left out`);
  if (call !== undefined) console.log(formatCall(call));
}

/** One call in columns that stay where they are; what is longer shifts only its own line. */
export function formatCall(call: TracedCall): string {
  const notes = [subjectOf(call), call.mode === 'piped' ? '' : `(${call.mode})`, call.message];
  return [
    columns(
      timeOfDay(call.startUnixMs),
      call.method,
      nameOfCode(call.code),
      formatMs(call.durationMs),
      formatMs(call.ownMs),
      formatMs(call.upstreamMs),
      formatBytes(Number(call.bytesUp)),
      formatBytes(Number(call.bytesDown)),
    ),
    ...notes.filter((note) => note !== ''),
  ].join('  ');
}

/** "default/redis/main"; by ID, as people shorten it, where there is no name. */
function subjectOf({ namespace, pod, container, sandboxId, containerId }: TracedCall): string {
  const ofPod = pod === '' ? sandboxId.slice(0, SHORT_ID) : `${namespace}/${pod}`;
  const ofContainer = container === '' ? containerId.slice(0, SHORT_ID) : container;
  return [ofPod, ofContainer].filter((part) => part !== '').join('/');
}

function columns(time: string, method: string, code: string, ...numbers: string[]): string {
  const padded = numbers.map((text) => text.padStart(9));
  return [time.padEnd(12), method.padEnd(METHOD_WIDTH), code.padEnd(CODE_WIDTH), ...padded].join(' ');
}

function timeOfDay(unixMs: number): string {
  const date = new Date(unixMs);
  const two = (value: number) => String(value).padStart(2, '0');
  const ms = String(date.getMilliseconds()).padStart(3, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}

function formatMs(ms: number): string {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms.toFixed(ms < 10 ? 2 : 0)} ms`;
}

function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1_000_000) return `${(bytes / 1000).toFixed(1)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}
