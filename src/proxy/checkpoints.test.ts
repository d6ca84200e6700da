import { mkdir, writeFile } from 'node:fs/promises';
import type { ServerHttp2Stream } from 'node:http2';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerWritableStream,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { ContainerCheckpoint, PodCheckpoint, PodRestore, PodRestored } from '../gen/cri/decoded.ts';
import {
  AgentService,
  type CheckpointRequest,
  Event,
  type PreparePodRequest,
  type StartPreparedRequest,
} from '../gen/gantry/v1/agent.ts';
import { Checkpoints, type CheckpointsConfig } from './checkpoints.ts';
import { Bench, message } from './relay.fixture.ts';

const SERVICE = '/runtime.v1.RuntimeService';
const ID = 'a'.repeat(64);
const OTHER = 'b'.repeat(64);
const GRPC = { ':status': 200, 'content-type': 'application/grpc' };

type Request = CheckpointRequest | PreparePodRequest | StartPreparedRequest;
type Call = ServerWritableStream<Request, Event>;

/** An agent that remembers what it was asked. */
class Agent {
  readonly asked: Request[] = [];
  readonly cancelled: string[] = [];
  answer: (call: Call) => void = (call) => {
    call.write(Event.fromPartial({ result: RESULT }));
    call.end();
  };
  #server: Server | undefined;

  async listen(socket: string): Promise<void> {
    const server = new Server();
    const run = (call: Call): void => {
      this.asked.push(call.request);
      call.write(Event.fromPartial({ started: { operationId: 'op' } }));
      this.answer(call);
    };
    const { checkpoint, preparePod, startPrepared, cancel } = AgentService;
    server.addService(
      { checkpoint, preparePod, startPrepared, cancel },
      {
        checkpoint: run,
        preparePod: run,
        startPrepared: run,
        cancel: (
          { request }: { request: { operationId: string } },
          reply: (error: null, answer: { accepted: boolean }) => void,
        ) => {
          this.cancelled.push(request.operationId);
          reply(null, { accepted: true });
        },
      },
    );
    await new Promise<void>((resolve, reject) =>
      server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      ),
    );
    this.#server = server;
  }

  close(): void {
    this.#server?.forceShutdown();
  }
}

const RESULT = { sandboxId: 'sandbox', prepared: [{ name: 'main', containerId: ID }] };
const fail = (code: number, details: string, hint = ''): ((call: Call) => void) => {
  const metadata = new Metadata();
  metadata.set('gantry-hint-bin', Buffer.from(hint));
  return (call) => call.emit('error', { code, details, metadata } satisfies Partial<ServiceError>);
};

let bench: Bench;
let agent: Agent;
let config: CheckpointsConfig;
/** Methods that the runtime was asked with more than nothing. */
let reached: string[];
/** What the runtime says to methods of these. */
let own: number;

beforeEach(async () => {
  bench = await Bench.make();
  agent = new Agent();
  onTestFinished(async () => {
    agent.close();
    await bench[Symbol.asyncDispose]();
  });
  reached = [];
  own = status.UNIMPLEMENTED;
  const agentSocket = join(bench.folder, 'agent.sock');
  config = { checkpoints: 'auto', agentSocket, upstream: bench.upstream, stateDir: join(bench.folder, 'state') };
  await bench.rawServer((stream: ServerHttp2Stream, headers) => {
    let bytes = 0;
    stream.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    stream.on('end', () => {
      const method = headers[':path']?.split('/').at(-1) ?? '';
      const isOwn = /Checkpoint|Restore/.test(method);
      if (bytes > 5) reached.push(method);
      stream.respond({ ...GRPC, 'grpc-status': String(isOwn ? own : 0) }, { endStream: true });
    });
  });
});

async function relay(change: Partial<CheckpointsConfig> = {}): Promise<void> {
  await bench.relay({ interceptors: [new Checkpoints({ ...config, ...change })] });
}

/** Status, its message, and what came. */
async function ask(method: string, request: Uint8Array, headers: readonly string[] = []) {
  const body = message(Buffer.from(request));
  const answer = await bench.rawClient().call(`${SERVICE}/${method}`, headers, body);
  const last = answer.trailers ?? answer.headers;
  return {
    code: Number(last?.['grpc-status']),
    text: decodeURIComponent(String(last?.['grpc-message'] ?? '')),
    message: answer.body.subarray(5),
  };
}

const container = (fields: Parameters<typeof ContainerCheckpoint.fromPartial>[0] = {}): Uint8Array =>
  ContainerCheckpoint.encode(
    ContainerCheckpoint.fromPartial({ containerId: ID, location: '/there/a.tar', ...fields }),
  ).finish();
const pod = (fields: Parameters<typeof PodCheckpoint.fromPartial>[0] = {}): Uint8Array =>
  PodCheckpoint.encode(
    PodCheckpoint.fromPartial({ podSandboxId: ID, outputPath: '/there', containerIds: [OTHER], ...fields }),
  ).finish();
const restore = (fields: Parameters<typeof PodRestore.fromPartial>[0] = {}): Uint8Array => {
  const bytes = Buffer.from('a');
  const whole = { checkpointPath: '/there', config: bytes, runtimeHandler: 'runc', containerConfigs: [bytes, bytes] };
  return PodRestore.encode(PodRestore.fromPartial({ ...whole, ...fields })).finish();
};
const start = (id = ID): Uint8Array => container({ containerId: id, location: '' });

async function prepare(id: string): Promise<void> {
  await mkdir(join(config.stateDir, 'prepared'), { recursive: true });
  await writeFile(join(config.stateDir, 'prepared', `${id}.json`), '{}');
}

describe('whose the checkpoints are:', () => {
  test.each([
    ['auto', status.UNIMPLEMENTED, 'gantry'],
    ['auto', status.OK, 'runtime'],
    ['auto', status.INVALID_ARGUMENT, 'runtime'],
    ['gantry', status.OK, 'gantry'],
    ['runtime', status.UNIMPLEMENTED, 'runtime'],
  ] as const)('with "%s" and a runtime that answers %i, those of %s', async (checkpoints, code, whose) => {
    own = code;
    await agent.listen(config.agentSocket);
    await relay({ checkpoints });
    const answer = await ask('CheckpointContainer', container());
    expect([agent.asked.length, reached.length]).toEqual(whose === 'gantry' ? [1, 0] : [0, 1]);
    expect(answer.code).toBe(whose === 'gantry' ? status.OK : code);
  });
});

describe('what the agent is asked for:', () => {
  beforeEach(async () => {
    await agent.listen(config.agentSocket);
    await relay();
  });

  test('CheckpointContainer makes an archive of a container that goes on', async () => {
    expect(await ask('CheckpointContainer', container())).toMatchObject({ code: status.OK, message: Buffer.alloc(0) });
    expect(agent.asked).toMatchObject([
      { container: ID, archive: '/there/a.tar', leaveRunning: true, tcp: 'established', attached: true },
    ]);
  });

  test('CheckpointPod one of the containers that are named', async () => {
    expect(await ask('CheckpointPod', pod())).toMatchObject({ code: status.OK });
    expect(agent.asked).toMatchObject([
      { container: ID, containers: [OTHER], archive: '/there/pod.tar', leaveRunning: true, attached: true },
    ]);
  });

  test('RestorePod a pod, whose containers are told by name', async () => {
    const { code, message: answer } = await ask('RestorePod', restore());
    expect(code).toBe(status.OK);
    expect(PodRestored.decode(answer)).toMatchObject({
      podSandboxId: 'sandbox',
      restoredContainers: [{ name: 'main', containerId: ID }],
    });
    expect(agent.asked).toMatchObject([{ path: '/there', runtimeHandler: 'runc' }]);
  });

  test('StartContainer the start of one that was prepared, by its whole ID or the beginning of it, and no other', async () => {
    expect((await ask('StartContainer', start())).code).toBe(status.OK);
    expect([agent.asked, reached]).toEqual([[], ['StartContainer']]);
    await prepare(ID);
    for (const id of [ID, ID.slice(0, 12), OTHER, '../prepared']) await ask('StartContainer', start(id));
    expect(agent.asked).toMatchObject([{ container: ID }, { container: ID }]);
    expect(reached).toEqual(['StartContainer', 'StartContainer', 'StartContainer']);
  });

  test.each<[string, () => [method: string, request: Uint8Array], number, RegExp]>([
    ['a relative location', () => ['CheckpointContainer', container({ location: 'a.tar' })], 3, /absolute/],
    ['a name', () => ['CheckpointContainer', container({ containerId: 'redis' })], 5, /redis/],
    ['a relative folder', () => ['CheckpointPod', pod({ outputPath: 'a' })], 3, /absolute/],
    ['no container', () => ['CheckpointPod', pod({ containerIds: [] })], 3, /no container/],
    ['an option', () => ['CheckpointPod', pod({ options: { fast: 'yes' } })], 3, /"fast"/],
    ['an option', () => ['RestorePod', restore({ options: { fast: 'yes' } })], 3, /"fast"/],
    ['no sandbox', () => ['RestorePod', restore({ config: Buffer.alloc(0) })], 3, /sandbox/],
    ['no container', () => ['RestorePod', restore({ containerConfigs: [] })], 3, /no container/],
    ['a relative path', () => ['RestorePod', restore({ checkpointPath: 'a' })], 3, /absolute/],
  ])('nothing, when the request has %s', async (_what, request, code, text) => {
    expect(await ask(...request())).toMatchObject({ code, text: expect.stringMatching(text) });
    expect(agent.asked).toEqual([]);
  });
});

describe('when it does not succeed', () => {
  test("the client is told the agent's reason, and what to do", async () => {
    agent.answer = fail(status.FAILED_PRECONDITION, 'it is not running', 'start it');
    await agent.listen(config.agentSocket);
    await relay();
    expect(await ask('CheckpointContainer', container())).toMatchObject({
      code: status.FAILED_PRECONDITION,
      text: 'it is not running (start it)',
    });
  });

  test.each([
    ['CheckpointContainer', () => container()],
    ['RestorePod', () => restore()],
    ['StartContainer', () => start()],
  ] as const)('%s is UNAVAILABLE without an agent', async (method, request) => {
    await prepare(ID);
    await relay();
    expect(await ask(method, request())).toMatchObject({
      code: status.UNAVAILABLE,
      text: expect.stringContaining('is it running?'),
    });
    expect(reached).toEqual([]);
  });

  test('nor with one that ends in the middle', async () => {
    agent.answer = () => agent.close();
    await agent.listen(config.agentSocket);
    await relay();
    expect(await ask('CheckpointContainer', container())).toMatchObject({ code: status.UNAVAILABLE });
  });

  test.each([
    ['the time that the request gives', () => container({ timeout: 1n }), []],
    ["the client's deadline", () => container(), ['grpc-timeout', '1S']],
  ] as const)('in %s, the agent undoes it before the client is told', async (_what, request, headers) => {
    const undone = Promise.withResolvers<Call>();
    agent.answer = (call) => undone.resolve(call);
    await agent.listen(config.agentSocket);
    await relay();
    const answer = ask('CheckpointContainer', request(), headers);
    const call = await undone.promise;
    while (agent.cancelled.length === 0) await delay(10);
    expect(agent.cancelled).toEqual(['op']);
    fail(status.CANCELLED, 'cancelled')(call);
    expect(await answer).toMatchObject({ code: status.DEADLINE_EXCEEDED, text: expect.stringContaining('undone') });
  });

  test('and the client goes away, so does the call of the agent', async () => {
    const begun = Promise.withResolvers<Call>();
    agent.answer = (call) => begun.resolve(call);
    await agent.listen(config.agentSocket);
    await relay();
    const stop = new AbortController();
    const stream = bench.rawClient().request(`${SERVICE}/CheckpointContainer`, [], stop.signal);
    stream.end(message(Buffer.from(container())));
    const call = await begun.promise;
    const cancelled = new Promise((resolve) => call.once('cancelled', resolve));
    stop.abort();
    await cancelled;
    expect(call.cancelled).toBe(true);
  });
});
