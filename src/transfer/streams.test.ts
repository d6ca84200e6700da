import { once } from 'node:events';
import { chmod, mkdtempDisposable, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { afterEach, expect, it, vi } from 'vitest';
import { Bandwidth } from './bandwidth.ts';
import { sendFolder } from './streams.ts';

/** What GNU tar writes at least: one record. */
const RECORD_BYTES = 10_240;

afterEach(() => vi.unstubAllEnvs());

it('is not upset by a receiver that has everything and closes before tar has ended', async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), 'streams-'));
  await slowTar(folder.path, 'tar "$@"; sleep 0.3');
  await using receiver = await receiverThatEndsAfter(RECORD_BYTES);
  await expect(sendFolder(receiver.socket, folder.path)).resolves.toBe(RECORD_BYTES);
});

it('fails when the receiver closes before it has everything', async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), 'streams-'));
  await slowTar(folder.path, 'tar "$@"; sleep 0.3; exec head -c 1000000 /dev/zero');
  await using receiver = await receiverThatEndsAfter(RECORD_BYTES);
  await expect(sendFolder(receiver.socket, folder.path)).rejects.toMatchObject({ reason: 'PEER_LOST' });
});

it('is as fast as its bandwidth, loses nothing by it, and tells of what has passed', async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), 'streams-'));
  await using receiver = await receiverThatEndsAfter(RECORD_BYTES);
  const moved: number[] = [];
  const began = performance.now();
  const flow = { bandwidth: new Bandwidth(20_000), moved: (bytes: number) => moved.push(bytes) };
  await expect(sendFolder(receiver.socket, folder.path, undefined, flow)).resolves.toBe(RECORD_BYTES);
  // Half a second's bytes, without those of the burst.
  expect(performance.now() - began).toBeGreaterThan(390);
  expect(moved.reduce((total, bytes) => total + bytes, 0)).toBe(RECORD_BYTES);
});

/** Puts a tar on the PATH that is the real one, and then something more. */
async function slowTar(folder: string, script: string): Promise<void> {
  const file = join(folder, 'tar');
  await writeFile(file, `#!/bin/sh\nPATH=${process.env.PATH}\n${script}\n`);
  await chmod(file, 0o755);
  vi.stubEnv('PATH', `${folder}:${process.env.PATH}`);
}

async function receiverThatEndsAfter(bytes: number) {
  let received = 0;
  const server = createServer((peer) => {
    peer.on('error', () => undefined);
    peer.on('data', (chunk: Buffer) => {
      received += chunk.length;
      if (received >= bytes) peer.end();
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const socket: Socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  return {
    // What is used of it, every socket has.
    socket: socket as TLSSocket,
    async [Symbol.asyncDispose]() {
      socket.destroy();
      server.close();
    },
  };
}
