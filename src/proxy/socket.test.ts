import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, lstat, readdir, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { expect, test } from 'vitest';
import { Bench, methods } from './relay.fixture.ts';

const UNARY = methods.unary.path;

test('a stale socket is replaced', async () => {
  await using bench = await Bench.make();
  const leftover =
    "require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))";
  await once(spawn(process.execPath, ['-e', leftover, bench.listen]), 'close');
  expect((await lstat(bench.listen)).isSocket()).toBe(true);
  await bench.grpcServer({
    unary: (_call: unknown, done: (error: null, value: Buffer) => void) => done(null, Buffer.from('x')),
  });
  await bench.relay();
  expect((await bench.rawClient().call(UNARY)).trailers?.['grpc-status']).toBe('0');
});

test('a live socket is refused and left as it is', async () => {
  await using bench = await Bench.make();
  const other = createServer((socket) => socket.on('error', () => undefined).end('still here')).listen(bench.listen);
  await once(other, 'listening');
  await expect(bench.relay()).rejects.toMatchObject({ reason: 'BUSY', message: expect.stringContaining(bench.listen) });
  const { connect } = await import('node:net');
  expect(String((await once(connect(bench.listen), 'data'))[0])).toBe('still here');
  other.close();
});

test('a file that is no socket is refused and left as it is', async () => {
  await using bench = await Bench.make();
  await writeFile(bench.listen, 'precious');
  await expect(bench.relay()).rejects.toMatchObject({
    reason: 'USAGE',
    message: expect.stringContaining('not a socket'),
  });
  expect((await lstat(bench.listen)).isFile()).toBe(true);
});

test("the runtime's own socket is refused", async () => {
  await using bench = await Bench.make();
  await expect(bench.relay({ listen: bench.upstream })).rejects.toMatchObject({ reason: 'USAGE' });
});

test('a folder that does not exist is an error that says what to do', async () => {
  await using bench = await Bench.make();
  const listen = `${bench.folder}/missing/gantry.sock`;
  await expect(bench.relay({ listen })).rejects.toMatchObject({
    reason: 'USAGE',
    hint: expect.stringContaining('folder'),
  });
});

test('a path that no socket can have is an error with the limit', async () => {
  await using bench = await Bench.make();
  const listen = `${bench.folder}/${'x'.repeat(100)}`;
  await expect(bench.relay({ listen })).rejects.toMatchObject({
    reason: 'USAGE',
    hint: expect.stringContaining('98 bytes'),
  });
});

test('without a runtime the socket is for its owner only', async () => {
  await using bench = await Bench.make();
  await bench.relay();
  expect((await stat(bench.listen)).mode & 0o777).toBe(0o600);
});

test.runIf(process.getuid?.() === 0)("owner and mode are those of the runtime's socket", async () => {
  await using bench = await Bench.make();
  await bench.rawServer(() => undefined);
  await chown(bench.upstream, 12, 34);
  await chmod(bench.upstream, 0o660);
  await bench.relay();
  const { uid, gid, mode } = await stat(bench.listen);
  expect([uid, gid, mode & 0o777]).toEqual([12, 34, 0o660]);
});

test('the socket goes when the relay closes, and nothing is left beside it', async () => {
  await using bench = await Bench.make();
  const relay = await bench.relay();
  expect(await readdir(bench.folder)).toEqual(['gantry.sock']);
  await relay.close();
  expect(await readdir(bench.folder)).toEqual([]);
});

test("a successor's socket stays when the old relay closes", async () => {
  await using bench = await Bench.make();
  const old = await bench.relay();
  const { rename } = await import('node:fs/promises');
  await rename(bench.listen, `${bench.folder}/moved`);
  await bench.relay();
  await old.close();
  expect((await lstat(bench.listen)).isSocket()).toBe(true);
});
