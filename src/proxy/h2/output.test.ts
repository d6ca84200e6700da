import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Output } from './output.ts';

async function connected(): Promise<{ near: Socket; far: Socket } & AsyncDisposable> {
  const folder = await mkdtemp(join(tmpdir(), 'gantry-output-'));
  const server = createServer({ pauseOnConnect: true });
  server.listen(join(folder, 's'));
  await once(server, 'listening');
  const near = connect(join(folder, 's'));
  const [far] = (await once(server, 'connection')) as [Socket];
  return {
    near,
    far,
    async [Symbol.asyncDispose]() {
      near.destroy();
      far.destroy();
      server.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

test('what the kernel does not take at once follows in order when it has room', async () => {
  await using sockets = await connected();
  let unblocked = 0;
  const output = new Output(sockets.near, () => {
    unblocked += 1;
  });
  const sent: Buffer[] = [];
  for (let turn = 0; turn < 20_000 && !output.blocked; turn++) {
    const line = Buffer.from(`line ${turn} ${'x'.repeat(turn % 1500)}\n`);
    sent.push(line);
    output.write(line);
    output.flush();
  }
  expect(output.blocked).toBe(true);
  expect(output.bytes).toBeGreaterThan(0);
  const all = Buffer.concat(sent);
  const got: Buffer[] = [];
  let length = 0;
  sockets.far.on('data', (chunk: Buffer) => {
    got.push(chunk);
    length += chunk.length;
  });
  sockets.far.resume();
  for (let round = 0; round < 500 && length < all.length; round++) await delay(10);
  expect(Buffer.concat(got).equals(all)).toBe(true);
  expect([output.blocked, output.bytes, unblocked]).toEqual([false, 0, 1]);
});

test('a peer that is gone is an error of the socket, as with any write', async () => {
  await using sockets = await connected();
  const output = new Output(sockets.near, () => undefined);
  const errors: unknown[] = [];
  sockets.near.on('error', (error) => errors.push(error));
  sockets.far.destroy();
  for (let round = 0; round < 100 && !sockets.near.destroyed; round++) {
    output.write(Buffer.from('anybody there?'));
    output.flush();
    await delay(5);
  }
  expect(sockets.near.destroyed).toBe(true);
  expect(errors).toMatchObject([{ code: 'EPIPE' }]);
});
