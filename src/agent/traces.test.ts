import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import { Migration } from '../gen/gantry/v1/agent.ts';
import type { Log } from '../log.ts';
import { Traces, traceOf } from './traces.ts';

const one = (fields: Parameters<typeof Migration.fromPartial>[0] = {}) =>
  Migration.fromPartial({
    id: '00112233445566aa',
    direction: 'out',
    mode: 'stop-and-copy',
    state: 'serving',
    startedUnixMs: 1_700_000_000_000,
    endedUnixMs: 1_700_000_002_500,
    phases: [{ name: 'dump', startMs: 1000.5, durationMs: 20 }],
    ...fields,
  });
const spansOf = (migration: Migration) => traceOf(migration, 'a').resourceSpans[0]?.scopeSpans[0]?.spans ?? [];

test('both sides have one trace, and the target is below the source', () => {
  const [source, dump] = spansOf(one());
  const [target, ownPhase] = spansOf(one({ direction: 'in' }));
  expect(source).toMatchObject({ spanId: '00112233445566aa', name: 'migration', status: { code: 1 } });
  expect(source).not.toHaveProperty('parentSpanId');
  expect(source).toMatchObject({ startTimeUnixNano: '1700000000000000000', endTimeUnixNano: '1700000002500000000' });
  expect(dump).toMatchObject({ name: 'dump', parentSpanId: source?.spanId, startTimeUnixNano: '1700000001000500000' });
  expect(target).toMatchObject({ traceId: source?.traceId, parentSpanId: source?.spanId });
  expect(ownPhase).toMatchObject({ traceId: source?.traceId, parentSpanId: target?.spanId });
  for (const { traceId, spanId } of [source, dump, target].filter((span) => span !== undefined))
    expect([traceId, spanId].join()).toMatch(/^[0-9a-f]{32},[0-9a-f]{16}$/);
});

test('what was rolled back is an error, with its reason', () => {
  const [span] = spansOf(one({ state: 'rolled-back', reason: 'PEER_LOST', message: 'gone' }));
  expect(span?.status).toEqual({ code: 2, message: 'PEER_LOST: gone' });
});

function logged(): { log: Log; events: string[] } {
  const events: string[] = [];
  const log = { warn: (event: string, fields: { why: string }) => void events.push(`${event}: ${fields.why}`) };
  return { log: log as unknown as Log, events };
}

test('a collector that is not there, refuses, or does not answer hinders nobody', async () => {
  const received: unknown[] = [];
  const server = createServer(async (request, response) => {
    received.push(await json(request));
    if (request.url === '/v1/traces' && received.length === 1) response.writeHead(503).end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { log, events } = logged();
  {
    await using traces = new Traces(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, 'a', log);
    traces.add(one());
    await expect.poll(() => events).toEqual([expect.stringContaining('answered 503')]);
    for (let more = 0; more < 101; more++) traces.add(one());
    expect(events.at(-1)).toBe('trace-not-sent: 100 wait already');
    // Its end gives them a second, and no more.
  }
  server.close();
  server.closeAllConnections();
  const nobody = logged();
  {
    await using traces = new Traces('http://127.0.0.1:1', 'a', nobody.log);
    traces.add(one());
  }
  expect(nobody.events).toEqual([expect.stringContaining('ECONNREFUSED')]);
});
