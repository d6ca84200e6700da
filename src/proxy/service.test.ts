import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, lstat, readFile, rename, rm, writeFile } from 'node:fs/promises';
import type { ServerHttp2Stream } from 'node:http2';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { execa } from 'execa';
import { expect, onTestFinished, test, vi } from 'vitest';
import { CreateContainerRequest, CreateContainerResponse, PullImageRequest } from '../gen/cri.ts';
import { Bench, message, methods } from './relay.fixture.ts';

const UNARY = methods.unary.path;
const CRI = '/runtime.v1.RuntimeService';
const IMAGES = '/runtime.v1.ImageService/PullImage';
const COMMAND = new URL('../cli/main.ts', import.meta.url).pathname;
const GRPC = { ':status': 200, 'content-type': 'application/grpc' };

function succeed(stream: ServerHttp2Stream, answer: Uint8Array = Buffer.from('x')): void {
  stream.respond(GRPC, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  stream.end(message(Buffer.from(answer)));
  stream.resume();
}

interface Program {
  child: ChildProcess;
  exited: Promise<unknown[]>;
  events(): { event: string; [field: string]: unknown }[];
  log(): string;
}

function start(file: string, args: string[], options: { env?: NodeJS.ProcessEnv; fd?: number } = {}): Program {
  const child = spawn(file, args, {
    stdio: ['ignore', 'ignore', 'pipe', ...(options.fd === undefined ? [] : [options.fd])],
    env: { ...process.env, ...options.env },
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let log = '';
  child.stderr?.on('data', (chunk) => {
    log += chunk;
  });
  const lines = () => log.split('\n').filter((line) => line.startsWith('{'));
  return { child, exited: once(child, 'exit'), log: () => log, events: () => lines().map((line) => JSON.parse(line)) };
}

const proxyArgs = (bench: Bench, ...more: string[]) => [COMMAND, 'proxy', '--upstream', bench.upstream, ...more];

async function until(program: Program, event: string): Promise<void> {
  await vi.waitFor(() => expect(program.events().map((each) => each.event)).toContain(event), { timeout: 15_000 });
}

/**
 * What systemd is to a socket-activated service: holds the listening socket, passes it as descriptor 3, starts the
 * service again whenever it ends. Prints "PID n" for each.
 */
const SUPERVISOR = `
while :; do
  sh -c 'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=cri exec "$@"' sh "$@" &
  echo "PID $!" >&2
  wait $!
done`;

/** A listening socket that this process no longer accepts on: only those to whom it was passed do. */
async function listeningSocket(path: string): Promise<{ fd: number; release: () => Promise<void> }> {
  const server = createServer();
  server.listen({ path, backlog: 4096 }); // as the unit has it
  await once(server, 'listening');
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  const release = async () => {
    await rename(path, `${path}.kept`); // closing removes the name it was bound to
    server.close();
    await once(server, 'close');
    await rename(`${path}.kept`, path);
  };
  return { fd, release };
}

/** How many clients may wait on a listening socket (ss(8): Send-Q). */
async function backlogOf(path: string): Promise<number> {
  const { stdout } = await execa('ss', ['--unix', '--listening', '--no-header', 'src', path]);
  return Number(stdout.trim().split(/\s+/)[3]);
}

test('with a passed socket the proxy can be killed again and again, and no connection attempt fails', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => succeed(stream));
  const socket = await listeningSocket(bench.listen);
  const before = await lstat(bench.listen);
  const supervisor = start('sh', ['-c', SUPERVISOR, 'sh', process.execPath, ...proxyArgs(bench)], { fd: socket.fd });
  const pids = () => [...supervisor.log().matchAll(/^PID (\d+)$/gm)].map(([, pid]) => Number(pid));
  onTestFinished(() => {
    supervisor.child.kill('SIGKILL'); // first, or it would start another
    const last = pids().at(-1);
    try {
      if (last !== undefined) process.kill(last, 'SIGKILL');
    } catch {
      // It has ended by itself, as it should have.
    }
  });
  await socket.release();
  const backlog = await backlogOf(bench.listen);
  await until(supervisor, 'started');
  expect(await backlogOf(bench.listen)).toBe(backlog); // listening again must not make it shorter

  let connected = 0;
  const refused: string[] = [];
  const stop = new AbortController();
  const connecting = (async () => {
    while (!stop.signal.aborted) {
      const client = connect(bench.listen);
      await once(client, 'connect').then(
        () => {
          connected += 1;
        },
        (error) => refused.push(String(error)),
      );
      client.on('error', () => undefined).destroy();
      await delay(5);
    }
  })();
  for (const signal of ['SIGKILL', 'SIGTERM', 'SIGKILL'] as const) {
    const starts = supervisor.events().filter(({ event }) => event === 'started').length;
    process.kill(pids().at(-1) ?? 0, signal);
    if (signal === 'SIGKILL') {
      // A client that connects while nobody is there is answered by the next one.
      const answer = await bench.rawClient().call(UNARY);
      expect(answer.trailers?.['grpc-status']).toBe('0');
    }
    await vi.waitFor(
      () => expect(supervisor.events().filter(({ event }) => event === 'started')).toHaveLength(starts + 1),
      { timeout: 15_000 },
    );
  }
  stop.abort();
  await connecting;
  expect(refused).toEqual([]);
  expect(connected).toBeGreaterThan(50);
  expect(pids()).toHaveLength(4);
  expect(supervisor.events().find(({ event }) => event === 'started')).toMatchObject({ listen: bench.listen });

  supervisor.child.kill('SIGKILL');
  const last = pids().at(-1) ?? 0;
  process.kill(last, 'SIGTERM');
  // The second: one was stopped by SIGTERM before.
  await vi.waitFor(() => expect(supervisor.events().filter(({ event }) => event === 'stopped')).toHaveLength(2), {
    timeout: 15_000,
  });
  expect((await lstat(bench.listen)).ino).toBe(before.ino); // it is systemd's to remove
}, 60_000);

test('the service manager is told of ready, life and stop, in this order', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => succeed(stream));
  const told = join(bench.folder, 'told');
  await writeFile(join(bench.folder, 'systemd-notify'), `#!/bin/sh\necho "$1" >>${told}\n`);
  await chmod(join(bench.folder, 'systemd-notify'), 0o755);
  const env = {
    PATH: `${bench.folder}:${process.env.PATH}`,
    NOTIFY_SOCKET: join(bench.folder, 'notify'),
    WATCHDOG_USEC: '300000',
  };
  const proxy = start(process.execPath, proxyArgs(bench, '--listen', bench.listen), { env });
  const lines = async () => (await readFile(told, 'utf8').catch(() => '')).trimEnd().split('\n');
  await vi.waitFor(async () => expect((await lines()).length).toBeGreaterThanOrEqual(4), { timeout: 15_000 });
  // Without its socket in place nobody could reach it, so it is not fed either.
  await rename(bench.listen, `${bench.listen}.away`);
  await until(proxy, 'self-probe-failed');
  const fed = (await lines()).length;
  await delay(500);
  expect(await lines()).toHaveLength(fed);
  await rename(`${bench.listen}.away`, bench.listen);
  await vi.waitFor(async () => expect((await lines()).length).toBeGreaterThan(fed), { timeout: 5000 });
  proxy.child.kill('SIGTERM');
  expect(await proxy.exited).toEqual([0, null]);
  const all = await lines();
  expect(all[0]).toBe('READY=1');
  expect(new Set(all.slice(1, -1))).toEqual(new Set(['WATCHDOG=1']));
  expect(all.at(-1)).toBe('STOPPING=1');
}, 60_000);

test('a signal that comes while the service manager is being told is an end in order, too; a second is one at once', async () => {
  await using bench = await Bench.make();
  const told = join(bench.folder, 'told');
  await bench.rawServer((stream) => void stream.resume());
  await writeFile(join(bench.folder, 'systemd-notify'), `#!/bin/sh\necho "$1" >>${told}\nexec sleep 3\n`);
  await chmod(join(bench.folder, 'systemd-notify'), 0o755);
  const env = { PATH: `${bench.folder}:${process.env.PATH}`, NOTIFY_SOCKET: '/run/n' };
  const args = proxyArgs(bench, '--listen', bench.listen, '--drain-timeout', '30000');
  const proxy = start(process.execPath, args, { env });
  await vi.waitFor(async () => expect(await readFile(told, 'utf8')).toContain('READY=1'), { timeout: 15_000 });
  const held = bench.rawClient().call(UNARY);
  await delay(300);
  proxy.child.kill('SIGTERM');
  await until(proxy, 'stopping');
  await delay(300);
  expect(proxy.child.exitCode).toBeNull();
  proxy.child.kill('SIGTERM');
  expect(await proxy.exited).toEqual([143, null]);
  await held;
}, 60_000);

test("a passed socket whose name is gone is told of, and no reason for a restart: it is systemd's", async () => {
  await using bench = await Bench.make();
  const told = join(bench.folder, 'told');
  await writeFile(join(bench.folder, 'systemd-notify'), `#!/bin/sh\necho "$1" >>${told}\n`);
  await chmod(join(bench.folder, 'systemd-notify'), 0o755);
  const socket = await listeningSocket(bench.listen);
  const env = { PATH: `${bench.folder}:${process.env.PATH}`, NOTIFY_SOCKET: '/run/n', WATCHDOG_USEC: '200000' };
  const shell = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"';
  const proxy = start('sh', ['-c', shell, 'sh', process.execPath, ...proxyArgs(bench)], { fd: socket.fd, env });
  await socket.release();
  await until(proxy, 'started');
  await rm(bench.listen);
  await until(proxy, 'socket-missing');
  const fed = async () => (await readFile(told, 'utf8')).split('WATCHDOG=1').length;
  const before = await fed();
  await vi.waitFor(async () => expect(await fed()).toBeGreaterThan(before), { timeout: 5000 });
  expect(proxy.events().map(({ event }) => event)).not.toContain('self-probe-failed');
}, 30_000);

test('calls are logged by what they do: reading is quiet, failures are not', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream, headers) => {
    if (headers[':path']?.endsWith('/RemoveContainer')) {
      stream.respond({ ...GRPC, 'grpc-status': '5', 'grpc-message': 'no%20such' }, { endStream: true });
      stream.resume();
    } else {
      succeed(stream);
    }
  });
  const proxy = start(process.execPath, proxyArgs(bench, '--listen', bench.listen, '--metrics', '127.0.0.1:0'));
  await until(proxy, 'started');
  const client = bench.rawClient();
  for (const method of ['ListContainers', 'StartContainer', 'RemoveContainer']) {
    await client.call(`/runtime.v1.RuntimeService/${method}`);
  }
  await vi.waitFor(() => expect(proxy.events().filter(({ event }) => event === 'call')).toHaveLength(2));
  expect(proxy.events().filter(({ event }) => event === 'call')).toEqual([
    expect.objectContaining({ level: 'info', method: 'StartContainer', code: 'OK', mode: 'piped' }),
    expect.objectContaining({ level: 'warn', method: 'RemoveContainer', code: 'NOT_FOUND', message: 'no such' }),
  ]);
  const address = proxy.events().find(({ event }) => event === 'metrics')?.address;
  const text = await (await fetch(`http://${address}/metrics`)).text();
  expect(text).toContain('gantry_cri_calls_total{method="ListContainers",code="OK",mode="piped"} 1');
  expect(text).toContain('gantry_cri_calls_total{method="RemoveContainer",code="NOT_FOUND",mode="piped"} 1');
  expect((await fetch(`http://${address}/`)).status).toBe(404);
}, 30_000);

test('the log says which pod and container a call was about, and no more of it', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream, headers) => {
    const created = CreateContainerResponse.encode({ containerId: 'C1' }).finish();
    succeed(stream, headers[':path']?.endsWith('/CreateContainer') === true ? created : new Uint8Array());
  });
  const proxy = start(process.execPath, proxyArgs(bench, '--listen', bench.listen));
  await until(proxy, 'started');
  const client = bench.rawClient();
  const create = CreateContainerRequest.fromPartial({
    podSandboxId: 'S1',
    config: { metadata: { name: 'main' }, envs: [{ key: 'PASSWORD', value: Buffer.from('hunter2') }] },
  });
  const pull = PullImageRequest.fromPartial({
    image: { image: 'private' },
    auth: { username: 'u', password: 'hunter2' },
  });
  await client.call(`${CRI}/CreateContainer`, [], message(Buffer.from(CreateContainerRequest.encode(create).finish())));
  await client.call(`${CRI}/StopContainer`, [], message(Buffer.from('\n\x02C1')));
  await client.call(IMAGES, [], message(Buffer.from(PullImageRequest.encode(pull).finish())));
  await vi.waitFor(() => expect(proxy.events().filter(({ event }) => event === 'call')).toHaveLength(3));
  const main = { container: 'main', sandboxId: 'S1', containerId: 'C1' };
  expect(proxy.events().filter(({ event }) => event === 'call')).toMatchObject([
    { method: 'CreateContainer', ...main },
    { method: 'StopContainer', ...main },
    { method: 'PullImage' },
  ]);
  expect(proxy.log()).not.toMatch(/hunter2|PASSWORD/);
}, 30_000);

test('a log that nobody reads does not hold up calls', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => succeed(stream));
  const args = proxyArgs(bench, '--listen', bench.listen, '--log-level', 'trace');
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  await vi.waitFor(() => lstat(bench.listen), { timeout: 15_000 });
  const client = bench.rawClient();
  for (let round = 0; round < 20; round += 1) {
    const answers = await Promise.all(Array.from({ length: 100 }, () => client.call(UNARY)));
    expect(answers.every(({ trailers }) => trailers?.['grpc-status'] === '0')).toBe(true);
  }
}, 30_000);

test('metrics that cannot be served do not stop the relay', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => succeed(stream));
  const missing = `unix:${bench.folder}/missing/metrics.sock`;
  const proxy = start(process.execPath, proxyArgs(bench, '--listen', bench.listen, '--metrics', missing));
  await until(proxy, 'started');
  expect(proxy.events()).toContainEqual(expect.objectContaining({ event: 'metrics-failed', level: 'error' }));
  expect((await bench.rawClient().call(UNARY)).trailers?.['grpc-status']).toBe('0');
  await rm(bench.listen);
}, 30_000);
