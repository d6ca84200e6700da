import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer, get } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json as jsonOf, text } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { AgentService, type Migration } from '../../src/gen/gantry/v1/agent.ts';
import { connectSocket, unary } from '../../src/runtime/grpc.ts';
import { Command, expectReason, type Served, until, World } from '../faults/world.ts';
import { labEnv, type NodeEnvironment } from '../lab.ts';

const NAME = 't-moves';
/** It is met on its way, however slow the machine, and does not arrive. */
const SLOW = ['--bandwidth', '512K'];

let world: World;
let served: Served;

beforeAll(async () => {
  world = await World.up(NAME);
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.serveRedis({ mebibytes: 16 });
});
afterEach(async () => {
  await served?.counter.stop(0);
  await world.removePods();
});

/** What `gantry migrations -o json` has of one. */
interface Listed {
  id: string;
  direction: string;
  namespace: string;
  pod: string;
  containers: string[];
  peer: string;
  mode: string;
  state: string;
  phases: { name: string; durationMs: number }[];
  running: string[];
  bytes: number;
  frozenMs: number;
  reason: string;
  message: string;
  endedAt: string | null;
}

function begin(...args: string[]): Command {
  return world.begin(world.a, 'migrate', served.pod.container, '--to', 'b', ...args);
}

/** What Prometheus would read: name and labels to value. */
async function metricsOf(node: NodeEnvironment): Promise<Map<string, number>> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socketPath = world.path(node, '/run/gantry/metrics.sock');
  get({ socketPath, path: '/metrics' }, (response) => text(response).then(resolve, reject)).on('error', reject);
  const lines = (await promise).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))] as const),
  );
}

test('the metrics of both nodes count one that arrives and one that is rolled back', async () => {
  const before = await Promise.all(world.nodes.map(metricsOf));
  const cancelled = begin(...SLOW);
  await cancelled.reached('placeholder');
  expect((await metricsOf(world.a)).get('gantry_migrations_running{direction="out"}')).toBe(1);
  expect((await metricsOf(world.b)).get('gantry_migrations_running{direction="in"}')).toBe(1);
  cancelled.signal('SIGINT');
  expectReason(await cancelled.ended, 'CANCELLED');
  const { exitCode, stderr } = await begin().ended;
  expect(exitCode, stderr).toBe(0);
  const after = await Promise.all(world.nodes.map(metricsOf));
  const more = (node: number, series: string) => (after[node]?.get(series) ?? 0) - (before[node]?.get(series) ?? 0);
  for (const [node, direction] of ['out', 'in'].entries()) {
    for (const state of ['serving', 'rolled-back']) {
      const series = `gantry_migrations_total{direction="${direction}",mode="stop-and-copy",state="${state}"}`;
      expect(more(node, series), series).toBe(1);
    }
    expect(more(node, `gantry_migration_bytes_total{direction="${direction}"}`)).toBeGreaterThan(16 * 1024 * 1024);
    expect(after[node]?.get(`gantry_migrations_running{direction="${direction}"}`)).toBe(0);
  }
  expect(more(0, 'gantry_migration_frozen_seconds_count{mode="stop-and-copy"}')).toBe(1);
  expect(more(0, 'gantry_operations_total{verb="migrate",outcome="CANCELLED"}')).toBe(1);
  expect(more(0, 'gantry_operations_total{verb="migrate",outcome="ok"}')).toBe(1);
  expect(more(0, 'gantry_journal_entries{role="source",state="retained"}')).toBe(1);
  expect(more(0, 'gantry_retained_bytes')).toBeGreaterThan(16 * 1024 * 1024);
  expect(more(1, 'gantry_journal_entries{role="target",state="serving"}')).toBe(1);
});

interface Span {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  status: { code: number; message?: string };
}

/** A collector of OpenTelemetry on this machine, for all agents until disposed. */
async function collector(): Promise<AsyncDisposable & { spans: (Span & { node: string })[] }> {
  const spans: (Span & { node: string })[] = [];
  const server = createServer(async (request, response) => {
    const { resourceSpans } = (await jsonOf(request)) as {
      resourceSpans: {
        resource: { attributes: { key: string; value: { stringValue: string } }[] };
        scopeSpans: { spans: Span[] }[];
      }[];
    };
    for (const { resource, scopeSpans } of resourceSpans) {
      const node = resource.attributes.find(({ key }) => key === 'host.name')?.value.stringValue ?? '';
      spans.push(...scopeSpans.flatMap((scope) => scope.spans).map((span) => ({ ...span, node })));
    }
    response.end('{}');
  });
  const { clientAddress } = await labEnv(NAME);
  server.listen(0, clientAddress);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const files = world.nodes.map((node) => world.path(node, '/etc/gantry/agent.json'));
  const before = await Promise.all(files.map((file) => readFile(file, 'utf8')));
  const use = async (texts: readonly string[]) => {
    for (const [index, file] of files.entries()) await writeFile(file, texts[index] ?? '');
    for (const node of world.nodes) await world.restart(node, 'agent');
  };
  await use(
    before.map((text) => JSON.stringify({ ...JSON.parse(text), otlpEndpoint: `http://${clientAddress}:${port}` })),
  );
  return {
    spans,
    [Symbol.asyncDispose]: async () => {
      server.close();
      server.closeAllConnections();
      await use(before);
    },
  };
}

test('a collector has the spans of both nodes under one trace, with the reason of what was rolled back', async () => {
  await using collecting = await collector();
  const { spans } = collecting;
  const cancelled = begin(...SLOW);
  await cancelled.reached('placeholder');
  cancelled.signal('SIGINT');
  await cancelled.ended;
  const { exitCode, stderr } = await begin().ended;
  expect(exitCode, stderr).toBe(0);
  const roots = () => spans.filter(({ name }) => name.startsWith('migration'));
  await until('four sides have told', () => roots().length === 4);
  const failed = roots().filter(({ status }) => status.code === 2);
  expect(failed.map(({ node }) => node).sort()).toEqual(['a', 'b']);
  expect(failed.find(({ node }) => node === 'a')?.status.message).toMatch(/^CANCELLED: /);
  const [source, target] = roots()
    .filter(({ status }) => status.code === 1)
    .sort((one, other) => one.node.localeCompare(other.node));
  expect(source).toMatchObject({ node: 'a', name: 'migration' });
  expect(target).toMatchObject({ node: 'b', traceId: source?.traceId, parentSpanId: source?.spanId });
  const below = (root: Span | undefined) =>
    spans.filter(({ parentSpanId, name }) => parentSpanId === root?.spanId && !name.startsWith('migration'));
  expect(below(source).map(({ name }) => name)).toEqual(expect.arrayContaining(['freeze', 'dump', 'commit']));
  expect(below(target).map(({ name }) => name)).toEqual(expect.arrayContaining(['placeholder', 'restore', 'resume']));
  expect(new Set(below(target).map(({ traceId }) => traceId))).toEqual(new Set([source?.traceId]));
});

/** What an agent says of one, without the start of a program. */
async function ask(node: NodeEnvironment, id: string): Promise<Migration> {
  const client = connectSocket(node.agentSocket);
  try {
    const { migrations } = await unary(client, AgentService.listMigrations, { id }, { timeoutMs: 10_000 });
    return migrations[0] as Migration;
  } finally {
    client.close();
  }
}

/** The ID is told before there is a record. */
function reaches(node: NodeEnvironment, id: string, phase: string): Promise<void> {
  return until(`${id} is in "${phase}"`, () =>
    ask(node, id).then(
      ({ running }) => running.includes(phase),
      () => false,
    ),
  );
}

async function json<T>(node: NodeEnvironment, ...args: string[]): Promise<T> {
  const { stdout, stderr, exitCode } = await world.gantry(node, 'migrations', ...args);
  expect(exitCode, stderr).toBe(0);
  return JSON.parse(stdout) as T;
}

/** The ID stands in the first line of a migration's progress. */
async function idOf(command: Command): Promise<string> {
  await until('the ID is told', () => command.lines.length > 0);
  const [, id = ''] = /^migration ([0-9a-f]{16})$/.exec(command.lines[0] ?? '') ?? [];
  expect(id, command.lines[0]).not.toBe('');
  return id;
}

const namesOf = ({ phases }: Pick<Listed, 'phases'>) => phases.map(({ name }) => name);

describe('a migration that is over', () => {
  test('is told of on both nodes, also after their agents were restarted', async () => {
    const command = begin();
    const id = await idOf(command);
    const { exitCode, stdout, stderr } = await command.ended;
    expect(exitCode, stderr).toBe(0);
    const result = JSON.parse(stdout) as { operation: string; frozenMs: number; bytesSent: number };
    expect(result.operation).toBe(id);
    const damaged = '/var/lib/gantry/history/0123456789abcdef.source.json';
    await writeFile(world.path(world.a, damaged), '{"version": 1, "oper');
    await Promise.all([world.restart(world.a, 'agent'), world.restart(world.b, 'agent')]);

    const out = await json<Listed>(world.a, 'show', id.slice(0, 6));
    expect(out).toMatchObject({ id, direction: 'out', namespace: 'default', pod: served.pod.name, peer: 'b' });
    expect(out).toMatchObject({ mode: 'stop-and-copy', state: 'serving', reason: '', running: [] });
    expect(out).toMatchObject({
      containers: [served.pod.container],
      frozenMs: result.frozenMs,
      bytes: result.bytesSent,
    });
    expect(namesOf(out)).toEqual(expect.arrayContaining(['check', 'dump', 'send memory', 'resume', 'remove source']));
    expect(Date.parse(out.endedAt ?? '')).toBeLessThanOrEqual(Date.now());

    const incoming = (await json<Listed[]>(world.b)).find((each) => each.id === id);
    expect(incoming).toMatchObject({ id, direction: 'in', pod: served.pod.name, peer: 'a', state: 'serving' });
    expect(incoming).toMatchObject({ mode: 'stop-and-copy', bytes: result.bytesSent });
    expect(namesOf(incoming as Listed)).toEqual(['placeholder', 'receive', 'restore', 'resume']);

    const late = await world.gantry(world.a, 'migrations', 'cancel', id);
    expectReason(late, 'CONFLICT', `migration ${id} is over: serving`);
    await expect(ask(world.a, 'xyz')).rejects.toMatchObject({ details: expect.stringMatching(/no migration xyz/) });
    await served.expectAlive('b');
  });

  test('is told of when it was refused, with the reason', async () => {
    const ended = await world.gantry(world.a, 'migrate', served.pod.container, '--to', 'nowhere');
    expectReason(ended, 'PEER_UNKNOWN');
    const [record] = await json<Listed[]>(world.a, 'list');
    expect(record).toMatchObject({ state: 'failed', peer: 'nowhere', reason: 'PEER_UNKNOWN', frozenMs: 0 });
    await served.expectAlive('a');
  });
});

describe('a migration that runs', () => {
  test('is listed with its phase, watched, and cancelled: the pod goes on at the source', async () => {
    const command = begin(...SLOW);
    const id = await idOf(command);
    const watching = new Command(['migrations', 'watch', id, '--agent', world.a.agentSocket]);
    await reaches(world.a, id, 'send memory');
    expect(await ask(world.a, id)).toMatchObject({ state: 'running', endedUnixMs: 0 });
    const isTold = () => command.lines.some((line) => /^send memory .* KiB\/s, \d+ s left$/.test(line));
    await until('a transfer is told', isTold);
    expect(await ask(world.b, id)).toMatchObject({ direction: 'in', state: 'running', running: ['receive'] });
    expectReason(await world.gantry(world.b, 'migrations', 'cancel', id), 'CONFLICT', /comes from node a/);

    const cancelled = await json<Listed>(world.a, 'cancel', id.slice(0, 8));
    expect(cancelled).toMatchObject({ id, state: 'rolled-back', reason: 'CANCELLED' });
    expectReason(await command.ended, 'CANCELLED');
    const watched = await watching.ended;
    expect(watched.exitCode, watched.stderr).toBe(130);
    for (const phase of ['connect', 'dump']) expect(watched.stderr).toMatch(new RegExp(`^${phase} \\d+ ms$`, 'm'));
    expect(watched.stdout).toContain(`migration ${id}: rolled-back (cancelled)`);
    await served.expectAlive('a');
    await until('the target has undone it', async () => (await ask(world.b, id)).state === 'rolled-back');
    await world.expectNothingLeft();
  });

  test('waits for its turn when there are too many', async () => {
    const others = await Promise.all([world.serveRedis({ mebibytes: 24 }), world.serveRedis({ mebibytes: 24 })]);
    const moves = others.map(({ pod }) => world.begin(world.a, 'migrate', pod.container, '--to', 'b', ...SLOW));
    for (const move of moves) await move.reached('connect');
    expectReason(await begin('--wait', '0').ended, 'BUSY', 'node a moves 2 pods already');

    const gone = begin();
    await reaches(world.a, await idOf(gone), 'wait for a place');
    gone.signal('SIGINT');
    expectReason(await gone.ended, 'CANCELLED');

    const last = begin();
    await reaches(world.a, await idOf(last), 'wait for a place');
    for (const move of moves) move.signal('SIGINT');
    const { exitCode, stderr } = await last.ended;
    expect(exitCode, stderr).toBe(0);
    for (const move of moves) expectReason(await move.ended, 'CANCELLED');
    await served.expectAlive('b');
    for (const other of others) await other.expectAlive('a');
  });

  test('has a record that says so when its agent is killed while it sends memory', async () => {
    const command = begin(...SLOW);
    const id = await idOf(command);
    await reaches(world.a, id, 'send memory');
    await world.restart(world.a, 'agent');
    expectReason(await command.ended, 'AGENT_UNAVAILABLE');
    expect(await ask(world.a, id)).toMatchObject({ state: 'rolled-back', message: 'cut off: the agent ended' });
    await until('the target has undone it', async () => (await ask(world.b, id)).state === 'rolled-back');
    await served.expectAlive('a');
  });
});
